//! TEMP master key.
use aws_lc_rs::hmac;

/// The key.
pub struct MasterKey(pub [u8; 32]);

impl MasterKey {
    /// A key for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: &str, id: &[u8], salt: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in [purpose.as_bytes(), &[0], id, salt] {
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}
