//! Ranking and answering: BM25 over the documents, and an answer composed of their own sentences. No HTTP.

use bm25::{Language, SearchEngine, SearchEngineBuilder};
use unicode_segmentation::UnicodeSegmentation;

use crate::{documents::Document, identity::Caller};

/// Documents an answer is composed of, at most.
const TOP: usize = 3;
/// Sentences an answer has, at most.
const SENTENCES: usize = 4;
/// Words sent at once.
const WORDS: usize = 3;

/// The documents and their index.
pub struct Library {
    documents: Vec<Document>,
    engine: SearchEngine<u32>,
}

/// A document that fits a question.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'a> {
    /// Which.
    pub document: &'a Document,
    /// BM25; higher is better.
    pub score: f32,
}

impl Library {
    /// Indexes the documents: title and text.
    #[must_use]
    pub fn new(documents: Vec<Document>) -> Self {
        let texts = documents.iter().map(|document| format!("{}. {}", document.title, document.text));
        let engine = SearchEngineBuilder::<u32>::with_corpus(Language::English, texts).build();
        Self { documents, engine }
    }

    /// What `caller` may read, in the order of the file.
    pub fn visible(&self, caller: &Caller) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(move |document| document.visible_to(caller))
    }

    /// The documents that fit best, best first, out of those `caller` may read.
    #[must_use]
    pub fn search(&self, question: &str, caller: &Caller) -> Vec<Hit<'_>> {
        // Cut to the best only after the filter: a limit before it would let hidden documents push visible ones out.
        self.engine
            .search(question, None)
            .into_iter()
            .filter_map(|result| Some(Hit { document: self.find(result.document.id)?, score: result.score }))
            .filter(|hit| hit.document.visible_to(caller))
            .take(TOP)
            .collect()
    }

    fn find(&self, index: u32) -> Option<&Document> {
        self.documents.get(usize::try_from(index).ok()?)
    }
}

/// An answer made of the sentences that fit the question best, each followed by its source.
#[must_use]
pub fn compose(question: &str, hits: &[Hit<'_>]) -> String {
    let sentences: Vec<(&Document, &str)> = hits
        .iter()
        .flat_map(|hit| hit.document.text.unicode_sentences().map(|sentence| (hit.document, sentence.trim())))
        .collect();
    let engine =
        SearchEngineBuilder::<u32>::with_corpus(Language::English, sentences.iter().map(|(_, text)| *text)).build();
    let mut best: Vec<usize> = engine
        .search(question, SENTENCES)
        .into_iter()
        .filter_map(|result| usize::try_from(result.document.id).ok())
        .collect();
    // Reading order: documents as ranked, sentences as written.
    best.sort_unstable();
    if best.is_empty() {
        return match hits.first() {
            // The title alone fits: its first sentence says most.
            Some(hit) => {
                format!("{} [{}]", hit.document.text.unicode_sentences().next().unwrap_or("").trim(), hit.document.id)
            }
            None => "Nothing you may read answers that.".to_owned(),
        };
    }
    let parts = best.into_iter().filter_map(|index| sentences.get(index));
    parts.map(|(document, text)| format!("{text} [{}]", document.id)).collect::<Vec<_>>().join(" ")
}

/// The answer in groups of a few words, each with its trailing blank, as a model would give them.
pub fn word_groups(answer: &str) -> impl Iterator<Item = String> {
    let words: Vec<&str> = answer.split_inclusive(' ').collect();
    words.chunks(WORDS).map(<[&str]>::concat).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{documents, identity::User};

    fn library() -> Library {
        Library::new(documents::parse(documents::shipped()).unwrap())
    }

    fn person(email: &str) -> Caller {
        Caller::User(User { subject: "u".to_owned(), email: Some(email.to_owned()), roles: vec!["user".to_owned()] })
    }

    fn ids(hits: &[Hit<'_>]) -> Vec<String> {
        hits.iter().map(|hit| hit.document.id.clone()).collect()
    }

    #[test]
    fn the_best_document_comes_first() {
        assert_eq!(
            ids(&library().search("How many days of paid leave do I have?", &Caller::Anonymous))[0],
            "handbook-leave"
        );
    }

    #[test]
    fn the_same_question_finds_each_persons_own_documents() {
        let library = library();
        let question = "What is my yearly salary?";
        let alice = ids(&library.search(question, &person("alice@example.com")));
        let bob = ids(&library.search(question, &person("bob@example.com")));
        assert!(alice.contains(&"alice-salary".to_owned()) && !alice.contains(&"bob-salary".to_owned()), "{alice:?}");
        assert!(bob.contains(&"bob-salary".to_owned()) && !bob.contains(&"alice-salary".to_owned()), "{bob:?}");
    }

    #[test]
    fn no_question_gives_a_stranger_a_private_document() {
        let library = library();
        for document in &library.documents {
            let hits = library.search(&document.text, &Caller::Anonymous);
            assert!(hits.iter().all(|hit| hit.document.owner == documents::Owner::Public), "{}", document.id);
        }
    }

    #[test]
    fn hidden_documents_do_not_push_visible_ones_out() {
        let secret = |n: u32| format!(r#"{{"id":"s{n}","owner":"role:x","title":"kiwi","text":"kiwi kiwi kiwi"}}"#);
        let mut all: Vec<String> = (0..20).map(secret).collect();
        all.push(
            r#"{"id":"open","owner":"public","title":"fruit","text":"A kiwi is a fruit among others."}"#.to_owned(),
        );
        let library = Library::new(documents::parse(&format!("[{}]", all.join(","))).unwrap());
        assert_eq!(ids(&library.search("kiwi", &Caller::Anonymous)), ["open"]);
    }

    #[test]
    fn an_answer_quotes_and_cites() {
        let library = library();
        let question = "How many days of paid leave?";
        let hits = library.search(question, &Caller::Anonymous);
        let answer = compose(question, &hits);
        assert!(answer.contains("28 days of paid leave a year. [handbook-leave]"), "{answer}");
    }

    #[test]
    fn an_answer_without_a_source_says_so() {
        assert_eq!(
            compose("zebra", &library().search("zebra", &Caller::Anonymous)),
            "Nothing you may read answers that."
        );
    }

    #[test]
    fn the_groups_are_the_answer_cut_in_pieces() {
        let answer = "one two three four five six seven";
        let groups: Vec<String> = word_groups(answer).collect();
        assert_eq!(groups, ["one two three ", "four five six ", "seven"]);
        assert_eq!(groups.concat(), answer);
    }
}
