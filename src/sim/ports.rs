//! The port face.
