//! A few threads that walk through the same program together.
//!
//! One job is one call of a closure on every thread; within it the threads share out loops and meet
//! at barriers. Waiting spins for some microseconds, then yields, then sleeps, so that a machine
//! with more threads than cores still gets on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SPINS: u32 = 500;
const YIELDS: u32 = 2000;
const NAP: Duration = Duration::from_micros(50);

/// The threads; the one that calls `run` is one of them.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    process: u32,
}

/// What a job sees: the loops and barriers that its threads share.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    shared: &'a Shared,
}

#[derive(Debug)]
struct Shared {
    threads: usize,
    /// Jobs published so far; workers wait for it to grow.
    published: AtomicUsize,
    job: Mutex<Option<Job>>,
    wake: Condvar,
    closing: AtomicBool,
    /// A thread panicked: whoever waits for it must not wait for ever.
    failed: AtomicBool,
    arrived: AtomicUsize,
    barriers: AtomicUsize,
    /// Next item of the loop that is being shared out.
    next: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(Member<'_>) + Sync));

// SAFETY: `Team::run` keeps the closure, which is Sync, alive until every thread is done with it.
unsafe impl Send for Job {}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Team {
    /// Starts `threads - 1` threads.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            threads: threads.max(1),
            published: AtomicUsize::new(0),
            job: Mutex::new(None),
            wake: Condvar::new(),
            closing: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            barriers: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        });
        let workers = (1..shared.threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.work())
            })
            .collect();
        Self { shared, workers, process: std::process::id() }
    }

    /// Calls `job` once on every thread and returns when all are done.
    ///
    /// # Panics
    ///
    /// When the job panicked on any thread.
    pub fn run(&mut self, job: &(dyn Fn(Member<'_>) + Sync)) {
        if self.process != std::process::id() || self.shared.failed.load(Ordering::Relaxed) {
            // Threads do not survive a fork, and a failed job left the counters anywhere.
            *self = Self::new(self.shared.threads);
        }
        let shared = &*self.shared;
        if shared.threads > 1 {
            // SAFETY: the lifetime is forgotten, but no thread touches the closure after the last
            // barrier below, which this function reaches before it returns or unwinds.
            let job: &'static (dyn Fn(Member<'_>) + Sync) = unsafe { std::mem::transmute(job) };
            let mut slot = lock(&shared.job);
            *slot = Some(Job(job));
            shared.published.fetch_add(1, Ordering::Release);
            drop(slot);
            shared.wake.notify_all();
        }
        let outcome = shared.perform(job);
        if let Err(panic) = outcome {
            self.join();
            resume_unwind(panic);
        }
    }

    fn join(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        drop(lock(&self.shared.job));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so through `failed`.
            let _ = worker.join();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.join();
        } else {
            std::mem::take(&mut self.workers).into_iter().for_each(std::mem::forget);
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        while let Some(job) = self.next_job(&mut seen) {
            // SAFETY: `Team::run` waits for this thread at the job's last barrier.
            let job = unsafe { &*job.0 };
            if self.perform(job).is_err() {
                return;
            }
        }
    }

    fn perform(&self, job: &(dyn Fn(Member<'_>) + Sync)) -> thread::Result<()> {
        let member = Member { shared: self };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            job(member);
            member.barrier();
        }));
        if outcome.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        outcome
    }

    fn next_job(&self, seen: &mut usize) -> Option<Job> {
        for _ in 0..SPINS {
            if self.published.load(Ordering::Acquire) != *seen {
                break;
            }
            std::hint::spin_loop();
        }
        let mut job = lock(&self.job);
        loop {
            if self.closing.load(Ordering::Acquire) {
                return None;
            }
            if self.published.load(Ordering::Acquire) != *seen {
                *seen += 1;
                return *job;
            }
            job = self.wake.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Member<'_> {
    /// Shares out `0..count`, then waits until all of it is done.
    ///
    /// `work` gets an item and the one this thread does next, if any.
    pub fn each(self, count: usize, mut work: impl FnMut(usize, Option<usize>)) {
        let claim = || {
            let item = self.shared.next.fetch_add(1, Ordering::Relaxed);
            (item < count).then_some(item)
        };
        let mut item = claim();
        while let Some(current) = item {
            item = claim();
            work(current, item);
        }
        self.barrier();
    }

    /// Waits until every thread of the team is here; what they wrote before can then be read.
    ///
    /// # Panics
    ///
    /// When another thread panicked and will never come.
    pub fn barrier(self) {
        let shared = self.shared;
        let round = shared.barriers.load(Ordering::Relaxed);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.threads {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.next.store(0, Ordering::Relaxed);
            shared.barriers.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut waited = 0;
        while shared.barriers.load(Ordering::Acquire) == round {
            assert!(!shared.failed.load(Ordering::Acquire), "another thread of the team panicked");
            wait(&mut waited);
        }
    }
}

fn wait(waited: &mut u32) {
    *waited = waited.saturating_add(1);
    if *waited < SPINS {
        std::hint::spin_loop();
    } else if *waited < SPINS + YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(NAP);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_and_seen_after_the_barrier() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads);
            for count in [0, 1, 3, 100] {
                let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let wrong = AtomicUsize::new(0);
                team.run(&|member| {
                    for round in 1..4 {
                        member.each(count, |item, _| {
                            done[item].fetch_add(1, Ordering::Relaxed);
                        });
                        let late = done.iter().any(|n| n.load(Ordering::Relaxed) != round);
                        wrong.fetch_add(usize::from(late), Ordering::Relaxed);
                        member.barrier();
                    }
                });
                assert_eq!(wrong.load(Ordering::Relaxed), 0);
            }
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_team_goes_on() {
        for culprit in [0, 1, 2] {
            let mut team = Team::new(3);
            let arrivals = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|member| {
                    assert_ne!(arrivals.fetch_add(1, Ordering::Relaxed), culprit);
                    member.barrier();
                });
            }));
            assert!(outcome.is_err());
            let calls = AtomicUsize::new(0);
            team.run(&|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 3);
        }
    }
}
