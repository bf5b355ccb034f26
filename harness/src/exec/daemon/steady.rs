//! The reference daemon without a script: it serves what comes, until its device is gone.

use std::path::PathBuf;
use std::time::Duration;

use super::super::device::Device;
use super::super::pipe::ready;
use super::engine::Engine;

/// Between two looks at a device that says nothing.
const LOOK: Duration = Duration::from_millis(100);

/// Serve the lower folder over that device. It ends with the process.
pub(crate) fn serve_for_ever(device: impl Device, lower: PathBuf) {
    let mut engine = Engine::new(1, lower);
    engine.devices.push(Some(device));
    loop {
        engine.pump(&|_| None);
        // Nobody asks what came.
        engine.take_log();
        let waits = engine.devices.iter().flatten().flat_map(Device::waitables);
        waits.for_each(|fd| _ = ready(&fd, LOOK));
    }
}
