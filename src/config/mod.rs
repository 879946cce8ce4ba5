//! Configuration: YAML in, [`settings::Settings`] out, or every mistake at once with line, column and key path.
//!
//! Two sets of types: `raw` mirrors the file (what serde and the JSON schema see), [`settings`] is what the rest of
//! the program gets: checked, resolved, no strings left to interpret. The only reader of files and the environment.

pub mod settings;
