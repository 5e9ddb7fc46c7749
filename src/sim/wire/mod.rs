//! The wire face.
