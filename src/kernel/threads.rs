//! The worker threads of one model thread.

use crate::{Error, Result};

/// The largest number of threads that a [`ThreadPool`] accepts.
pub const MAX_THREADS: usize = 64;

/// Worker threads of its own, so that a model neither waits for nor slows down rayon's global pool.
pub struct ThreadPool(rayon::ThreadPool);

impl ThreadPool {
    /// A pool of 1 to [`MAX_THREADS`] threads.
    ///
    /// # Errors
    /// [`Error::Input`] for any other number, [`Error::Thread`] when the system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(Error::input(format!("cannot run on {threads} threads: choose 1 to {MAX_THREADS}")));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("dream-{i}")).build();
        pool.map(Self).map_err(|e| Error::Thread(e.to_string()))
    }

    /// Runs `work` with its kernels on this pool.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

/// Runs `work(0..count)` on the current pool; the calls may come in any order.
pub(crate) fn for_each(count: usize, work: impl Fn(usize) + Send + Sync) {
    use rayon::prelude::*;
    if count <= 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(work);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_thread_counts_are_refused() {
        for threads in [0, 65, 10_000] {
            assert!(matches!(ThreadPool::new(threads), Err(Error::Input(_))));
        }
        assert_eq!(ThreadPool::new(3).unwrap().install(rayon::current_num_threads), 3);
    }
}
