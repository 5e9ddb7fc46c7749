//! From a request and a survey to a plan, or to the reasons why not.
//!
//! [`CATALOGUE`] is every check there is, as data; the modules beside it look, by theme.

mod account;
mod assess;
mod catalogue;
mod check;
mod cluster;
mod digest;
mod instance;
mod mapping;
mod outlook;
mod request;
mod types;
mod waiver;

pub use assess::{Assessment, Planning, Step, assess, plan, rank};
pub use catalogue::{CATALOGUE, find};
pub use check::{Check, Theme, to_be_done};
pub use request::{check_request, matches_pattern};
pub use waiver::{Waiver, answer as answer_waiver, refusal as waiver_refusal};
