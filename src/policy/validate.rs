//! TEMP validation.
/// A fault.
#[derive(Debug, thiserror::Error)]
#[error("is not well-formed")]
pub struct FieldError;
/// E-mail.
pub fn email(text: &str) -> Result<String, FieldError> {
    email_address::EmailAddress::is_valid(text).then(|| text.trim().to_owned()).ok_or(FieldError)
}
/// Username.
pub fn username(text: &str) -> Result<String, FieldError> {
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())).then(|| text.to_owned()).ok_or(FieldError)
}
/// Name.
pub fn full_name(text: &str) -> Result<String, FieldError> {
    (!text.chars().any(char::is_control)).then(|| text.to_owned()).ok_or(FieldError)
}
