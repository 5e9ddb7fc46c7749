//! A runtime for what the crate does on its own.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime of one thread that is put away in the background, with all that runs on it, whenever it is dropped: in async code a
/// [`Runtime`] must not be dropped.
pub(super) struct Aside {
    /// Where to spawn.
    pub handle: Handle,
    runtime: Option<Runtime>,
}

impl Aside {
    /// A runtime whose thread has this name.
    pub fn new(thread: &str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(thread).enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
