//! SIGINT and SIGTERM: the first asks, the second ends the process at once. SIGUSR1 asks how far the command is.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use yester::Result;
use yester::error::IoContext;

use crate::cli::say::exit;

/// A flag that the first signal sets. The second one ends the process with 130.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let what = || "cannot handle signals".to_owned();
        // The order matters: the shutdown looks at the flag before the same signal sets it.
        flag::register_conditional_shutdown(signal, i32::from(exit::INTERRUPTED), stop.clone()).at(what)?;
        flag::register(signal, stop.clone()).at(what)?;
    }
    Ok(stop)
}

/// A flag that SIGUSR1 sets. From the first call on, the signal ends no process any more.
pub fn asked() -> Arc<AtomicBool> {
    static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let register = || {
        let asked = Arc::new(AtomicBool::new(false));
        // Where signals cannot be handled, nobody can ask.
        let _ = flag::register(SIGUSR1, asked.clone());
        asked
    };
    ASKED.get_or_init(register).clone()
}
