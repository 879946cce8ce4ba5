//! TEMP until room/edge merges.
/// t
pub fn start(_t: &crate::config::settings::Telemetry) {
    tracing_subscriber::fmt().init();
}
