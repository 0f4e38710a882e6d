//! The sweep: a worker looks at a slice of its own entries now and then, and frees what has been idle too long.
//!
//! A clock hand over the entries, no timer per flow: nothing has to be kept in order when a packet arrives.

use super::Seconds;
use super::writer::FlowWriter;

/// Entries looked at in one call: short enough to hide between two bursts.
const SLICE: u32 = 256;

impl FlowWriter {
    /// Looks at the next slice. Returns how many flows ended.
    pub fn sweep(&mut self, now: Seconds) -> usize {
        // Also where nothing new is entered: what has ended need not wait for that, nor the list of it grow.
        self.reclaim();
        let mut ended = 0;
        for _ in 0..SLICE.min(self.used()) {
            self.advance();
            if let Some((index, state, idle)) = self.inspect(self.cursor, now)
                && idle >= state.timeout()
            {
                self.remove(index);
                ended += 1;
            }
        }
        ended
    }
}
