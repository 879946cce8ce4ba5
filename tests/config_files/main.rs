//! The configuration files we ship, and what a broken one is told.
//!
//! `shipped`: `config/gateway.yaml` names every key of the schema and equals the defaults, every example parses, the
//! schema file is current. `editor`: the schema takes those files and marks a misspelt key. `mistakes`: each one is
//! named with line, column, key path and what was probably meant. `storeless`: what a gateway that keeps nothing cannot
//! have. `presets`: what another product's headers need. `rotation`: how signing keys may follow each other. `meaning`:
//! what valid ones become. `secrets`: where they may come from, and that none ever prints. `credentials`: names of
//! cookies and secrets of clients that protect nothing. `security_events`: who is told of them, where, with which
//! secret. `lockout`: what failed logins cost. `robust`: no text makes it panic.

#[cfg(test)]
mod credentials;
#[cfg(test)]
mod editor;
#[cfg(test)]
mod lockout;
#[cfg(test)]
mod meaning;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod presets;
#[cfg(test)]
mod robust;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod secrets;
mod security_events;
#[cfg(test)]
mod shipped;
#[cfg(test)]
mod storeless;
#[cfg(test)]
mod support;
