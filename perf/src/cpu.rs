//! Threads and cores: where a thread runs, and what it has cost so far, as the scheduler books it.
//!
//! Work that the kernel does in a thread's name, such as receiving on a veth while the thread sends, is booked to that
//! thread; what is put off to `ksoftirqd` is booked there. The figures are brought up to date at least every tick.

use std::fs;
use std::process::Command;
use std::thread;

use core_affinity::CoreId;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use crate::lab::LabError;

/// One thread, of this process or of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task(Pid);

impl Task {
    pub fn current() -> Task {
        Task(gettid())
    }

    pub fn number(self) -> i32 {
        self.0.as_raw()
    }

    /// Lets the thread run on one core only. False when there is no such core, or it may not be; then it runs anywhere.
    pub fn pin(self, core: usize) -> bool {
        let mut cores = CpuSet::new();
        cores.set(core).is_ok() && sched_setaffinity(self.0, &cores).is_ok()
    }

    /// All threads of another process, as they are now.
    pub fn of_process(process: u32) -> Vec<Task> {
        let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let numbers = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers.map(|number| Task(Pid::from_raw(number))).collect()
    }

    /// Lets the thread run before everything of normal priority, so that the neighbours' share is not measured. False when
    /// that may not be, or `chrt` is not there; the figures are then worth less, and still figures.
    pub fn make_urgent(self) -> bool {
        self.schedule(&["-f", "-p", "10"])
    }

    /// Lets the thread run before urgent ones: it empties a ring and sleeps.
    pub fn make_collector(self) -> bool {
        self.schedule(&["-f", "-p", "15"])
    }

    /// Lets the thread run before urgent ones too: it looks at the clock and sleeps.
    pub fn make_timekeeper(self) -> bool {
        self.schedule(&["-f", "-p", "20"])
    }

    pub fn make_normal(self) -> bool {
        self.schedule(&["-o", "-p", "0"])
    }

    fn schedule(self, how: &[&str]) -> bool {
        let output = Command::new("chrt").args(how).arg(self.0.to_string()).output();
        output.is_ok_and(|output| output.status.success())
    }

    /// Nanoseconds on a CPU; 0 for a thread that has ended.
    pub fn nanoseconds(self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.0)).unwrap_or_default();
        text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
    }
}

/// Does something on a thread that stays on the last core: whoever is started by the caller later would inherit that core.
pub fn on_last_core<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            if let Some(core) = last_core() {
                core_affinity::set_for_current(core);
            }
            work()
        });
        pinned.join().map_err(|_| LabError::Panicked)
    })
}

/// The core for who is measured, where one is enough.
pub fn last_core() -> Option<CoreId> {
    core_affinity::get_core_ids()?.last().copied()
}

/// Memory of this process that is in use, in MiB.
pub fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

/// The kernel's own threads for what senders have put off, one per CPU.
pub fn softirq_tasks() -> Vec<Task> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| {
            fs::read_to_string(format!("/proc/{number}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
        })
        .map(|number| Task(Pid::from_raw(number)))
        .collect()
}
