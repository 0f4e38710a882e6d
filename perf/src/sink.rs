//! Where packets are counted and end: our XDP program without a socket.

use fastpath::io::program::Program;

use crate::lab::{Lab, LabError, Place, attach_program, detach_program};

pub struct Sink {
    program: Program,
    place: Place,
    interface: &'static str,
}

impl Sink {
    /// Everything that arrives at the interface ends there, as early as the kernel can.
    pub fn attach(lab: &Lab, place: Place, interface: &'static str) -> Result<Sink, LabError> {
        let program = lab.within(place, || attach_program(interface, false, None))??;
        Ok(Sink { program, place, interface })
    }

    /// Packets so far.
    pub fn count(&self) -> Result<u64, LabError> {
        Ok(self.program.counters()?.dropped_no_socket)
    }

    pub fn detach(self, lab: &Lab) -> Result<(), LabError> {
        lab.within(self.place, || detach_program(self.interface))?
    }
}
