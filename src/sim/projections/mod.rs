//! The server's projections: their JavaScript, what is refused of it, and their life.
//!
//! Written from the server's `JintProjectionStateHandler`, `ReaderStrategy` and `ProjectionManager`, and from recordings of 23.10.5.
//! QuickJS takes newer syntax than the server's engine; the files in `projections/` keep to ES5.

mod catalog;
mod run;
mod script;

pub use self::catalog::{Catalog, CatalogError, Emission, Statistics};
pub use self::run::{Emitted, Processed, Run, category_of};
pub use self::script::{Definition, Script};

/// Why a projection stands still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// What a projection that may not emit is faulted with when it does.
pub const EMIT_REFUSED: &str = "'emit' is not allowed by the projection/configuration/mode";
