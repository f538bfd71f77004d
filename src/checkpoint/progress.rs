//! How far a load is: whoever reads a file on this thread tells it here.

use std::cell::RefCell;

/// How much of a model has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have been read, of checks and of weights.
    pub done: u64,
    /// Bytes that will have been read, as far as it is known: it grows when another file is opened.
    pub total: u64,
}

type Watcher = Box<dyn FnMut(Progress)>;

thread_local! {
    static WATCHED: RefCell<Option<(Watcher, Progress)>> = const { RefCell::new(None) };
}

/// Runs `load` and tells `watcher` of everything that it reads on this thread.
pub fn watch<T>(watcher: impl FnMut(Progress) + 'static, load: impl FnOnce() -> T) -> T {
    /// Puts back what was there, even when a load panics.
    struct Restore(Option<(Watcher, Progress)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WATCHED.set(self.0.take());
        }
    }
    let _restore = Restore(WATCHED.replace(Some((Box::new(watcher), Progress { done: 0, total: 0 }))));
    load()
}

/// So many bytes more will be read.
pub(super) fn expect(bytes: u64) {
    tell(|progress| progress.total += bytes);
}

/// So many bytes have been read.
pub(super) fn read(bytes: u64) {
    tell(|progress| {
        progress.done += bytes;
        progress.total = progress.total.max(progress.done);
    });
}

fn tell(change: impl FnOnce(&mut Progress)) {
    // The watcher is taken out while it is told, so that it may load something itself.
    if let Some((mut watcher, mut progress)) = WATCHED.take() {
        change(&mut progress);
        watcher(progress);
        WATCHED.set(Some((watcher, progress)));
    }
}
