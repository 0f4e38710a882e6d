//! The router of a lab: one worker of this process, between the near interfaces.
//!
//! It is the router's own worker, sockets and XDP program; what is missing is control: its tables are made by
//! [`crate::tables`] and published by whoever measures.

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::io::program::Program;
use fastpath::io::xsk::{QueueOptions, XskMemory, XskOptions, XskQueue};
use fastpath::rcu::Publisher;
use fastpath::stats::counters::Counters;
use fastpath::table::Tables;
use fastpath::worker::{self, Clock, Parts, Poll, Remote};

use crate::cpu::Task;
use crate::forwarder::{Forwarder, Running};
use crate::lab::{Lab, LabError, Place, attach_program, detach_program, system};
use crate::tables;

/// How the router is set up for a measurement.
#[derive(Clone, Copy, Debug)]
pub struct RouterOptions {
    pub rules: usize,
    /// Entries of the flow table.
    pub flows: u32,
    /// Routes of other nodes, beside those of the two endpoints.
    pub routes: usize,
    pub poll: Poll,
    /// The rules are a host endpoint's list without state, and A is the uplink; see [`tables::untracked`].
    pub is_untracked: bool,
}

impl Default for RouterOptions {
    fn default() -> Self {
        RouterOptions { rules: 1, flows: 1 << 16, routes: 0, poll: Poll::Sleep, is_untracked: false }
    }
}

impl RouterOptions {
    /// The tables that the worker begins with.
    pub fn tables(&self, mtu: u16) -> Tables {
        match self.is_untracked {
            true => tables::untracked(self.rules, mtu),
            false => tables::with_routes(tables::two_endpoints(self.rules, mtu), self.routes),
        }
    }

    pub fn start_router<'lab>(&self, lab: &'lab Lab) -> Result<Router<'lab>, LabError> {
        lab.within(Place::Router, || start(*self, lab))?
    }
}

impl Forwarder for RouterOptions {
    fn name(&self) -> String {
        let routes = if self.routes > 0 { format!(", {} routes", self.routes) } else { String::new() };
        let polls = if self.poll == Poll::Always { ", never sleeps" } else { "" };
        format!("router, {} rules{routes}{polls}", self.rules)
    }

    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError> {
        Ok(Box::new(self.start_router(lab)?))
    }
}

/// A worker that forwards between the near interfaces, on a thread of its own.
pub struct Router<'lab> {
    lab: &'lab Lab,
    remote: Remote<XskQueue>,
    thread: JoinHandle<()>,
    /// What its thread costs.
    pub task: Task,
    publisher: RefCell<Publisher<Tables>>,
    _memory: XskMemory,
    programs: [Program; 2],
}

/// To be called in the router's namespace.
fn start(options: RouterOptions, lab: &Lab) -> Result<Router<'_>, LabError> {
    let frame_size = if lab.mtu() > 1500 { 4096 } else { 2048 };
    let (umem, memory) = XskMemory::new(XskOptions { frame_size, ..XskOptions::new("anchor0", 0) })?;
    let publisher = Publisher::new(options.tables(lab.mtu()));
    let flows = FlowWriter::new(FlowTable::new(options.flows), 0, 1, publisher.grace()).with_quota(u32::MAX);
    let parts = Parts { umem, flows, tables: publisher.reader(), poll: options.poll, clock: Clock::start() };
    let build = worker::build(vec![parts]).map_err(system("build a worker"))?;
    let Some((mut worker, remote)) = build.into_iter().next() else { return Err(LabError::Panicked) };
    let mut programs = Vec::with_capacity(2);
    for (near, interface) in [("near-a", tables::A), ("near-b", tables::B)] {
        let queue = memory.open(near, 0, QueueOptions::default())?;
        programs.push(attach_program(near, memory.multi_buffer(), Some(&queue))?);
        worker.attach(interface, queue);
    }
    let programs = programs.try_into().map_err(|_| LabError::Panicked)?;
    let (send, receive) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            // Nobody waits for the answer only if the lab has given up.
            let _ = send.send(Task::current());
            worker.run();
        })
        .map_err(system("start the worker's thread"))?;
    let task = receive.recv().map_err(|_| LabError::Panicked)?;
    Ok(Router { lab, remote, thread, task, publisher: RefCell::new(publisher), _memory: memory, programs })
}

impl Router<'_> {
    pub fn counters(&self) -> &Counters {
        &self.remote.counters
    }

    /// Makes these the tables of every breath from now on. They have to have a generation that none before had.
    pub fn publish(&self, tables: Tables) {
        self.publisher.borrow_mut().publish(tables);
    }

    /// Packets that were redirected to a socket and did not arrive: no frame was waiting, or the receive ring was full.
    pub fn lost_before(&self) -> Result<u64, LabError> {
        let mut redirected = 0;
        for program in &self.programs {
            redirected += program.counters()?.redirected;
        }
        Ok(redirected.saturating_sub(self.counters().received.get()))
    }
}

impl Running for Router<'_> {
    fn tasks(&self) -> Vec<Task> {
        vec![self.task]
    }

    fn stop(self: Box<Self>) -> Result<(), LabError> {
        // The ring of commands is empty: this is the only one.
        let _ = self.remote.commands.push(worker::Command::Stop);
        self.remote.doorbell.ring();
        self.thread.join().map_err(|_| LabError::Panicked)?;
        self.lab.within(Place::Router, || detach_program("near-a").and_then(|()| detach_program("near-b")))?
    }
}
