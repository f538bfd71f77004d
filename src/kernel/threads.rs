//! The worker threads of one model thread.
//!
//! A forward pass hands over work hundreds of times a second, some microseconds at a time. Workers of a general pool fall
//! asleep in between, and waking one takes longer than its part of the work. These spin for a moment first, and take
//! numbered tasks from one counter.

use std::any::Any;
use std::cell::RefCell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use super::isa::Isa;
use super::op::SharedOut;
use crate::{Error, Result};

/// The largest number of threads that a [`ThreadPool`] accepts.
pub const MAX_THREADS: usize = 64;

/// More threads than this slow a small model down on most machines, and leave the game around it none.
const USUAL_THREADS: usize = 4;

/// How often a worker without work looks for some before it sleeps: for some 100 microseconds.
const SPINS: u32 = 4000;

/// Bits of [`Shared::next`] that number a task; those above number the job.
const TASK_BITS: u32 = 24;
const TASKS: u64 = (1 << TASK_BITS) - 1;

/// Worker threads of its own, so that a model neither waits for nor slows down anyone else's.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
}

thread_local! {
    /// The pool that kernels called by this thread run on, and its number of threads.
    static CURRENT: RefCell<Option<(Arc<Shared>, usize)>> = const { RefCell::new(None) };
}

/// Whether a number of threads is sensible.
///
/// # Errors
/// [`Error::Input`] when it is not 1 to [`MAX_THREADS`].
pub fn check_threads(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        return Ok(());
    }
    Err(Error::input(format!("cannot run on {threads} threads: choose 1 to {MAX_THREADS}")))
}

/// The number of threads for a model where none is asked for: one a core, at most four. Ask for more for a large model.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(USUAL_THREADS))
}

impl ThreadPool {
    /// A pool of 1 to [`MAX_THREADS`] threads, the one that uses it included, with the [preferred](Isa::preferred)
    /// instruction set.
    ///
    /// # Errors
    /// [`Error::Input`] for any other number or a preference that the CPU lacks, [`Error::Thread`] when the system gives no
    /// threads.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_isa(threads, Isa::preferred()?)
    }

    /// A pool whose kernels use this instruction set.
    ///
    /// # Errors
    /// Those of [`ThreadPool::new`].
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        let isa = isa.check()?;
        check_threads(threads)?;
        let mut pool = Self { shared: Arc::default(), workers: Vec::new(), isa };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("dream-{i}")).spawn(move || isa.run(|| shared.work()));
            pool.workers.push(worker.map_err(|e| Error::Thread(e.to_string()))?);
        }
        *pool.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner) =
            pool.workers.iter().map(|worker| worker.thread().clone()).collect();
        Ok(pool)
    }

    /// Runs `work` with its kernels on this pool. Two threads that do so at once share nothing but the workers: whoever
    /// finds them busy does its work alone.
    pub fn install<R>(&self, work: impl FnOnce() -> R) -> R {
        let pool = (Arc::clone(&self.shared), self.workers.len() + 1);
        with_pool(Some(pool), || self.isa.run(work))
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks and has none of its own.
            worker.join().ok();
        }
    }
}

/// Runs `work` with its kernels on `pool`, or alone.
fn with_pool<R>(pool: Option<(Arc<Shared>, usize)>, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<(Arc<Shared>, usize)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(pool));
    work()
}

/// The number of threads that kernels called here run on.
pub(crate) fn current_threads() -> usize {
    CURRENT.with_borrow(|current| current.as_ref().map_or(1, |(_, threads)| *threads))
}

/// Runs `work(0..count)` on the current pool; the calls may come in any order.
pub(crate) fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    let pool = CURRENT.with_borrow(|current| current.as_ref().filter(|(_, threads)| *threads > 1).map(|c| c.0.clone()));
    match pool {
        Some(shared) if count > 1 && count < TASKS as usize => shared.lead(count, &work),
        _ => (0..count).for_each(work),
    }
}

/// Runs `work` on every item with its number, on the current pool.
pub(crate) fn for_each_mut<T: Send>(items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
    struct Items<T>(*mut T);
    // SAFETY: every item is given to one task, and may be sent there.
    unsafe impl<T: Send> Sync for Items<T> {}
    let start = Items(items.as_mut_ptr());
    let start = &start;
    // SAFETY: the number is below that of the items, and each comes once.
    for_each(items.len(), |i| work(i, unsafe { &mut *start.0.add(i) }));
}

/// Runs `work` on both items with their number, each on a thread of its own if the current pool has two: no core waits for the other
/// then. More threads are better used by all of them on one item after the other.
pub(crate) fn for_both_mut<T: Send>(items: &mut [T; 2], work: impl Fn(usize, &mut T) + Sync) {
    match current_threads() {
        2 => for_each_mut(items, |i, item| with_pool(None, || work(i, item))),
        _ => (0..).zip(items).for_each(|(i, item)| work(i, item)),
    }
}

/// Runs `work` on every `size` values with their number, on the current pool; the last part may be shorter.
pub(crate) fn for_each_chunk(values: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let length = values.len();
    let values = SharedOut::new(values);
    // SAFETY: the parts are disjoint, and each belongs to one task.
    for_each(length.div_ceil(size), |i| work(i, unsafe { values.slice(i * size..length.min((i + 1) * size)) }));
}

/// Fewest rows of a group of [`for_each_rows`]: all weights pass by each group.
const ROWS: usize = 16;

/// Runs `work` on every group of neighbouring rows of `width` values, one group a thread of the current pool. What comes after one another
/// row by row is done by one task: a core waits long for what another has just written.
pub(crate) fn for_each_rows(values: &mut [f32], width: usize, work: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let rows = values.len() / width;
    let most = rows.div_ceil(current_threads()).max(ROWS);
    for_each_chunk(values, most * width, |i, values| work(i * most..i * most + values.len() / width, values));
}

/// A job's function, called with its data and a task's number.
type Call = unsafe fn(*const (), usize);

/// What the threads of a pool share.
#[derive(Default)]
struct Shared {
    /// One thread leads at a time.
    leader: Mutex<()>,
    /// The next task to take: the job's number and the task's. A worker takes one by raising it, which fails if the job
    /// is no longer the one that it looked at.
    next: AtomicU64,
    count: AtomicUsize,
    /// The job's [`Call`] and data, valid until `finished` is `count`.
    call: AtomicPtr<()>,
    data: AtomicPtr<()>,
    finished: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: AtomicUsize,
    sleepers: Mutex<Vec<thread::Thread>>,
    stopped: AtomicBool,
}

impl Shared {
    /// Does a job together with the workers.
    fn lead<F: Fn(usize) + Sync>(&self, count: usize, work: &F) {
        let _leader = match self.leader.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // The workers are busy, perhaps with the very task that asks.
            Err(TryLockError::WouldBlock) => return (0..count).for_each(work),
        };
        /// # Safety
        /// `data` must point to a living `F`.
        unsafe fn call<F: Fn(usize)>(data: *const (), task: usize) {
            // SAFETY: promised by the caller.
            unsafe { (*data.cast::<F>())(task) }
        }
        let job = (self.next.load(Ordering::Relaxed) >> TASK_BITS) + 1;
        // First nobody can take a task of either job; then the fields change; then tasks may be taken.
        self.next.store(job << TASK_BITS | TASKS, Ordering::SeqCst);
        self.finished.store(0, Ordering::Release);
        self.count.store(count, Ordering::Release);
        self.call.store(call::<F> as Call as *mut (), Ordering::Release);
        self.data.store(std::ptr::from_ref(work).cast_mut().cast(), Ordering::Release);
        self.next.store(job << TASK_BITS, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        self.take_tasks();
        let mut spins = 0;
        while self.finished.load(Ordering::Acquire) < count {
            spin(&mut spins);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Does tasks of the present job until there are none.
    fn take_tasks(&self) {
        let mut seen = self.next.load(Ordering::Acquire);
        loop {
            let (task, count) = ((seen & TASKS) as usize, self.count.load(Ordering::Acquire));
            if task >= count {
                return;
            }
            let (call, data) = (self.call.load(Ordering::Acquire), self.data.load(Ordering::Acquire));
            match self.next.compare_exchange_weak(seen, seen + 1, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: the exchange succeeded, so these are the fields of the job whose task was taken, and that job's
                    // leader waits until the task is counted as finished. `call` holds a `Call` ever since the first job.
                    let run = || unsafe { std::mem::transmute::<*mut (), Call>(call)(data, task) };
                    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                    }
                    self.finished.fetch_add(1, Ordering::Release);
                    seen = self.next.load(Ordering::Acquire);
                }
                Err(now) => seen = now,
            }
        }
    }

    fn has_tasks(&self) -> bool {
        (self.next.load(Ordering::SeqCst) & TASKS) < self.count.load(Ordering::SeqCst) as u64
    }

    /// The life of a worker.
    fn work(&self) {
        let mut spins = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            if self.has_tasks() {
                self.take_tasks();
                spins = 0;
            } else if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                self.asleep.fetch_add(1, Ordering::SeqCst);
                // Whoever brings a task after this look sees that someone is asleep.
                if !self.has_tasks() && !self.stopped.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep.fetch_sub(1, Ordering::SeqCst);
                spins = 0;
            }
        }
    }

    fn wake(&self) {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(thread::Thread::unpark);
    }
}

/// Waits for another thread: at first busily, then leaving the core to it.
fn spin(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS {
        spin_loop();
    } else {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn absurd_thread_counts_are_refused() {
        for threads in [0, 65, 10_000] {
            assert!(matches!(ThreadPool::new(threads), Err(Error::Input(_))));
        }
        assert_eq!(ThreadPool::new(3).unwrap().install(current_threads), 3);
        assert_eq!(current_threads(), 1, "outside of a pool");
    }

    #[test]
    fn every_thread_of_a_pool_uses_its_instruction_set() {
        for isa in Isa::of_cpu() {
            let pool = ThreadPool::with_isa(3, isa).unwrap();
            let check = |_| assert_eq!(Isa::current(), isa);
            (0..50).for_each(|_| pool.install(|| for_each(20, check)));
        }
    }

    #[test]
    fn every_task_is_done_once() {
        let pool = ThreadPool::new(4).unwrap();
        for round in 0..3000 {
            if round % 500 == 0 {
                // long enough for the workers to fall asleep
                thread::sleep(std::time::Duration::from_millis(5));
            }
            let done: Vec<AtomicU32> = (0..round % 23).map(|_| AtomicU32::new(0)).collect();
            pool.install(|| for_each(done.len(), |i| _ = done[i].fetch_add(1, Ordering::Relaxed)));
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn every_item_is_given_once() {
        let mut items = vec![String::new(); 100];
        ThreadPool::new(3).unwrap().install(|| for_each_mut(&mut items, |i, item| item.push_str(&i.to_string())));
        assert!(items.iter().enumerate().all(|(i, item)| *item == i.to_string()));
    }

    #[test]
    fn every_chunk_is_given_once() {
        let mut values = vec![0.0; 11];
        let number = |i: usize, chunk: &mut [f32]| chunk.fill(i as f32);
        ThreadPool::new(2).unwrap().install(|| for_each_chunk(&mut values, 3, number));
        assert_eq!(values, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn work_within_work_and_two_users_at_once_are_served() {
        let pool = ThreadPool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        let use_it = || {
            let inner = |_| for_each(10, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
            (0..200).for_each(|_| pool.install(|| for_each(8, inner)));
        };
        thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(use_it))));
        assert_eq!(sum.into_inner(), 2 * 200 * 8 * 45);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3).unwrap();
        for bad in [0, 5, 9] {
            let run = || pool.install(|| for_each(10, |i| assert!(i != bad, "task {i}")));
            let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let done = AtomicUsize::new(0);
            pool.install(|| for_each(10, |_| _ = done.fetch_add(1, Ordering::Relaxed)));
            assert_eq!(done.into_inner(), 10);
        }
        assert_eq!(current_threads(), 1);
    }
}
