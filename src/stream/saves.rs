//! Saves, written one after the other on a thread of their own: the model thread only takes the snapshots.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};

use super::worker::words;
use crate::{Error, Result};

/// Saves that wait to be written at most: the model thread waits before one more.
const WAITING: usize = 4;

struct Save {
    write: Box<dyn FnOnce() -> Result<()> + Send>,
    done: Box<dyn FnOnce(Result<()>) + Send>,
}

/// The saves of a stream that are not written yet. Dropping it waits for them.
#[derive(Default)]
pub(super) struct Saves {
    /// There is none before the first save.
    writer: Option<(Sender<Save>, JoinHandle<()>)>,
}

impl Saves {
    /// Has `write` write a save when all before it are written, and then calls `done`, both on the writing thread. Neither's panic
    /// harms another save, and that of `write` is handed to `done` as an error.
    pub fn add(
        &mut self,
        write: impl FnOnce() -> Result<()> + Send + 'static,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let save = Save { write: Box::new(write), done: Box::new(done) };
        match self.writer() {
            // It ends no sooner than this sender.
            Ok(writer) => drop(writer.send(save)),
            Err(error) => (save.done)(Err(error)),
        }
    }

    /// Waits until all are written.
    pub fn wait(&mut self) {
        if let Some((saves, writer)) = self.writer.take() {
            drop(saves);
            writer.join().ok();
        }
    }

    fn writer(&mut self) -> Result<&Sender<Save>> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let (saves, inbox) = bounded(WAITING);
                let write = move || inbox.into_iter().for_each(Save::write);
                let thread = thread::Builder::new().name("dream-save".into()).spawn(write);
                (saves, thread.map_err(|e| Error::Thread(e.to_string()))?)
            }
        };
        Ok(&self.writer.insert(writer).0)
    }
}

impl Save {
    fn write(self) {
        let written = catch_unwind(AssertUnwindSafe(self.write))
            .unwrap_or_else(|panic| Err(Error::input(format!("the world was not saved: a panic: {}", words(&*panic)))));
        // There is nobody left to tell of another panic.
        catch_unwind(AssertUnwindSafe(|| (self.done)(written))).ok();
    }
}

impl Drop for Saves {
    fn drop(&mut self) {
        self.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_later_of_two_saves_stays_however_slow_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dream");
        let write = |text: &'static str| {
            let path = path.clone();
            move || fs::write(&path, text).map_err(Error::io(path))
        };
        let (open, gate) = bounded::<()>(0);
        let (told, done) = bounded(2);
        let [first, second] = ["first", "second"].map(|name| {
            let (told, write) = (told.clone(), write(name));
            (write, move |written: Result<()>| told.send((name, written.is_ok())).unwrap())
        });
        let mut saves = Saves::default();
        saves.add(move || gate.recv().map_err(|e| Error::input(e.to_string())).and_then(|()| first.0()), first.1);
        saves.add(second.0, second.1);
        assert!(done.recv_timeout(Duration::from_millis(100)).is_err(), "the second waits for the first");
        open.send(()).unwrap();
        saves.wait();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [("first", true), ("second", true)]);
    }

    #[test]
    fn a_panic_is_told_and_harms_no_other_save() {
        let (told, done) = bounded(3);
        let tell = move |written: Result<()>| told.send(written.map_err(|e| e.to_string())).unwrap();
        let mut saves = Saves::default();
        saves.add(|| panic!("an injected panic"), tell.clone());
        saves.add(|| Ok(()), |_| panic!("another"));
        saves.add(|| Ok(()), tell);
        drop(saves);
        let [panicked, written] = [(); 2].map(|()| done.try_recv().unwrap());
        assert!(panicked.unwrap_err().contains("an injected panic"));
        assert_eq!(written, Ok(()));
    }
}
