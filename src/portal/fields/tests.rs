//! Bodies well-formed, odd and hostile.

use proptest::prelude::*;

use super::*;
use crate::policy::validate;

fn fields(body: &str) -> Fields {
    Fields::parse(&Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn faults(refusal: Refusal) -> Vec<(String, String)> {
    assert_eq!(refusal.reason, Reason::Validation);
    let Some(Detail::Fields(faults)) = refusal.detail.map(|detail| *detail) else { panic!("no fields") };
    faults.into_iter().map(|fault| (fault.field, fault.message)).collect()
}

fn only(field: &str, message: &str) -> Vec<(String, String)> {
    vec![(field.to_owned(), message.to_owned())]
}

#[test]
fn a_member_is_taken_once_and_nothing_is_left() {
    let mut body = fields(r#"{"email":"a@b.test","all":true,"delivery":"cookie"}"#);
    assert_eq!(body.required("email", as_given::<String>).as_deref(), Some("a@b.test"));
    assert_eq!(body.optional("all", as_given::<bool>), Some(true));
    assert_eq!(body.optional("delivery", as_given::<Delivery>), Some(Delivery::Cookie));
    assert!(body.finish(Some(())).is_ok());
}

#[test]
fn an_unknown_member_is_named() {
    let refusal = fields(r#"{"role":"admin"}"#).finish(Some(())).unwrap_err();
    assert_eq!(faults(refusal), only("role", "is not a field of this request"));
}

#[test]
fn a_member_given_twice_is_named_whichever_comes_first() {
    let mut body = fields(r#"{"email":"a@b.test","email":"c@d.test"}"#);
    let email = body.required("email", as_given::<String>);
    assert_eq!(faults(body.finish(email).unwrap_err()), only("email", "is given twice"));
}

#[test]
fn a_name_escaped_in_json_is_the_same_name() {
    let mut body = fields("{\"email\":\"a@b.test\",\"\\u0065mail\":\"c@d.test\"}");
    let email = body.required("email", as_given::<String>);
    assert_eq!(faults(body.finish(email).unwrap_err()), only("email", "is given twice"));
}

#[test]
fn a_body_of_a_thousand_members_is_refused_without_comparing_them_all() {
    let members: Vec<_> = (0..1_000).map(|number| format!("\"{number:x}\":0")).collect();
    let body = fields(&format!("{{{}}}", members.join(",")));
    assert_eq!(body.members.len(), MOST_MEMBERS);
    let told = faults(body.finish(Some(())).unwrap_err());
    assert_eq!(told[0], (String::new(), "has more fields than any request of this service".to_owned()));
    // Wherever the surplus is, and however often it says the same.
    let twice = "\"all\":true,".repeat(MOST_MEMBERS);
    assert!(fields(&format!("{{{twice}\"all\":true}}")).finish(Some(())).is_err());
    assert!(Fields::parse(&Bytes::from(format!("{{{},", members.join(",")))).is_err(), "the rest is read all the same");
}

#[test]
fn a_missing_and_a_null_required_member_are_named() {
    for body in ["{}", r#"{"password":null}"#] {
        let mut body = fields(body);
        let password = body.required("password", as_given::<SecretString>);
        assert!(password.is_none());
        assert_eq!(faults(body.finish(password).unwrap_err()), only("password", "is required"));
    }
}

#[test]
fn null_and_missing_differ_where_they_must() {
    let mut body = fields(r#"{"a":null}"#);
    assert_eq!(body.nullable("a", as_given::<String>), Some(None));
    assert_eq!(body.nullable("b", as_given::<String>), None);
}

#[test]
fn a_wrong_kind_is_named_and_its_value_never_repeated() {
    for value in ["4711", "true", "[4711]", "{\"x\":4711}"] {
        let mut body = fields(&format!(r#"{{"password":{value}}}"#));
        let password = body.required("password", as_given::<SecretString>);
        assert_eq!(faults(body.finish(password).unwrap_err()), only("password", "must be a string"));
    }
    let mut body = fields(r#"{"delivery":"post"}"#);
    let delivery = body.optional("delivery", as_given::<Delivery>);
    assert_eq!(faults(body.finish(Some(delivery)).unwrap_err()), only("delivery", Delivery::WORDS));
}

#[test]
fn every_fault_is_named_at_once() {
    let mut body = fields(r#"{"email":"no","all":1,"x":1}"#);
    let email = body.required("email", |text: String| validate::email(&text));
    body.optional("all", as_given::<bool>);
    body.required("password", as_given::<SecretString>);
    let named: Vec<_> = faults(body.finish(email).unwrap_err()).into_iter().map(|(field, _)| field).collect();
    assert_eq!(named, ["email", "all", "password", "x"]);
}

#[test]
fn faults_and_names_in_an_answer_have_an_end() {
    let many: Vec<_> = (0..MOST_MEMBERS).map(|n| format!("\"{n}{}\":0", "x".repeat(500))).collect();
    let named = faults(fields(&format!("{{{}}}", many.join(","))).finish(Some(())).unwrap_err());
    assert_eq!(named.len(), MOST_FAULTS);
    assert!(named.iter().all(|(field, _)| field.chars().count() == NAME_CHARS));
}

#[test]
fn json_that_is_no_object_is_unprocessable_and_what_is_no_json_is_bad() {
    let reason = |body: &str| Fields::parse(&Bytes::copy_from_slice(body.as_bytes())).unwrap_err().reason;
    for body in ["[]", "\"email\"", "1", "null"] {
        assert_eq!(reason(body), Reason::Validation, "{body}");
    }
    for body in ["{", "email=a", "{} {}", "{\"a\":1,}", "\u{feff}{}", " "] {
        assert_eq!(reason(body), Reason::BodyBroken, "{body}");
    }
    assert!(Fields::parse(&Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
}

#[test]
fn debug_of_a_taken_password_shows_nothing() {
    let mut body = fields(r#"{"password":"hunter2hunter2","old_password":"hunter2"}"#);
    let password = body.required("password", as_given::<SecretString>);
    assert!(!format!("{password:?} {body:?}").contains("hunter2"));
}

#[test]
fn only_json_is_json() {
    let header = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
        is_json(&headers)
    };
    for value in ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"] {
        assert!(header(value), "{value}");
    }
    for value in
        ["text/plain", "application/jsonp", "application/x-www-form-urlencoded", "", "text/plain;application/json"]
    {
        assert!(!header(value), "{value}");
    }
    assert!(!is_json(&HeaderMap::new()));
}

proptest! {
    #[test]
    fn no_body_panics_and_an_accepted_one_names_each_member_once(body in r#"\{("[ab]":(1|"x"|null|\[\]),?){0,4}\}|\PC{0,40}"#) {
        if let Ok(fields) = Fields::parse(&Bytes::from(body.into_bytes())) {
            let mut names: Vec<_> = fields.members.iter().map(|(name, _)| name.clone()).collect();
            let given = names.len();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), given);
        }
    }
}
