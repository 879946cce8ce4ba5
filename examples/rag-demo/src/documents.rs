//! The documents, and who may read which. No HTTP, no ranking.

use serde::{Deserialize, Serialize};

use crate::identity::Caller;

/// One document.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Stable name, cited in answers.
    pub id: String,
    /// Who may read it.
    pub owner: Owner,
    /// For people.
    pub title: String,
    /// Plain text, a few sentences.
    pub text: String,
}

/// Who may read a document. In the file: `public`, `role:NAME`, or an e-mail address or subject.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub enum Owner {
    /// Everybody, known or not.
    Public,
    /// Everybody with this role.
    Role(String),
    /// One person, by e-mail address or by `sub`.
    Person(String),
}

impl From<String> for Owner {
    fn from(text: String) -> Self {
        match text.strip_prefix("role:") {
            Some(role) => Self::Role(role.to_owned()),
            None if text == "public" => Self::Public,
            None => Self::Person(text),
        }
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Public => "public".to_owned(),
            Owner::Role(role) => format!("role:{role}"),
            Owner::Person(person) => person,
        }
    }
}

impl Document {
    /// Whether `caller` may read it.
    #[must_use]
    pub fn visible_to(&self, caller: &Caller) -> bool {
        match (&self.owner, caller) {
            (Owner::Public, _) => true,
            (_, Caller::Anonymous) => false,
            (Owner::Role(role), Caller::User(user)) => user.roles.contains(role),
            // Addresses are compared as the gateway compares them at registration: regardless of case.
            (Owner::Person(owner), Caller::User(user)) => {
                user.subject == *owner || user.email.as_ref().is_some_and(|email| email.eq_ignore_ascii_case(owner))
            }
        }
    }
}

/// Reads the documents from the text of a JSON file.
///
/// # Errors
/// What is wrong with it, with line and column; two documents of the same id.
pub fn parse(json: &str) -> Result<Vec<Document>, String> {
    let documents: Vec<Document> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut seen = std::collections::HashSet::new();
    match documents.iter().find(|document| !seen.insert(document.id.as_str())) {
        Some(twice) => Err(format!("the id {:?} is there twice", twice.id)),
        None => Ok(documents),
    }
}

/// The documents shipped with the example.
#[must_use]
pub fn shipped() -> &'static str {
    include_str!("../documents.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::User;

    fn document(owner: &str) -> Document {
        let owner = Owner::from(owner.to_owned());
        Document { id: "d".to_owned(), owner, title: String::new(), text: String::new() }
    }

    fn user(subject: &str, email: Option<&str>, roles: &[&str]) -> Caller {
        Caller::User(User {
            subject: subject.to_owned(),
            email: email.map(str::to_owned),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
        })
    }

    #[test]
    fn public_documents_are_for_everybody() {
        assert!(document("public").visible_to(&Caller::Anonymous));
        assert!(document("public").visible_to(&user("u", None, &[])));
    }

    #[test]
    fn a_persons_document_is_for_that_person_alone() {
        let alices = document("alice@example.com");
        assert!(alices.visible_to(&user("u1", Some("alice@example.com"), &[])));
        assert!(alices.visible_to(&user("u1", Some("Alice@Example.com"), &[])));
        assert!(alices.visible_to(&user("alice@example.com", None, &[])));
        assert!(!alices.visible_to(&user("u2", Some("bob@example.com"), &["admin"])));
        assert!(!alices.visible_to(&user("u2", None, &[])));
        assert!(!alices.visible_to(&Caller::Anonymous));
    }

    #[test]
    fn a_roles_document_is_for_that_role() {
        assert!(document("role:admin").visible_to(&user("u", None, &["user", "admin"])));
        assert!(!document("role:admin").visible_to(&user("u", None, &["user"])));
        assert!(!document("role:admin").visible_to(&Caller::Anonymous));
    }

    #[test]
    fn a_person_named_like_a_role_owner_is_no_role() {
        assert!(!document("role:admin").visible_to(&user("role:admin", Some("role:admin"), &[])));
        assert!(!document("alice@example.com").visible_to(&user("u", None, &["alice@example.com"])));
    }

    #[test]
    fn the_shipped_documents_have_several_owners() {
        let documents = parse(shipped()).unwrap();
        assert_eq!(documents.len(), 12);
        for owner in ["public", "alice@example.com", "bob@example.com", "role:admin"] {
            assert!(documents.iter().any(|document| document.owner == Owner::from(owner.to_owned())), "{owner}");
        }
    }

    #[test]
    fn a_doubled_id_is_refused() {
        let one = r#"{"id":"a","owner":"public","title":"t","text":"x"}"#;
        assert!(parse(&format!("[{one},{one}]")).unwrap_err().contains("\"a\""));
    }
}
