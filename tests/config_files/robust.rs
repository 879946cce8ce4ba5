//! What is large, mangled or hostile: read or refused, never a panic.

use proptest::prelude::*;

use crate::support::{BASE, Variables, config_dir, parse_text};

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = format!("{BASE}routes:\n");
    for index in 0..10_000 {
        let route = format!("  - {{name: r{index}, match: {{path: '/r{index}/{{id}}'}}, cluster: rag}}\n");
        text.push_str(&route);
    }
    assert_eq!(parse_text(&text, &Variables::new()).unwrap().routes.len(), 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse_text(&text, &Variables::new());
    }

    #[test]
    fn no_yaml_soup_makes_it_panic(
        text in "([ \\n:\\-\\[\\]{},&*!|>'\"#?%$]|tokens|routes|clusters|limits|match|path|a|1){0,60}"
    ) {
        let _ = parse_text(&text, &Variables::new());
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(at in 0_usize..8_000, length in 0_usize..8, insert in "\\PC{0,6}") {
        let good = std::fs::read_to_string(config_dir().join("gateway.yaml")).unwrap();
        let mut characters: Vec<char> = good.chars().collect();
        let at = at.min(characters.len());
        let end = (at + length).min(characters.len());
        characters.splice(at..end, insert.chars());
        let text: String = characters.into_iter().collect();
        if let Err(errors) = parse_text(&text, &Variables::new()) {
            prop_assert!(!errors.errors().is_empty());
        }
    }
}
