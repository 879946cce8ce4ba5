//! Where in OpenAI's answers text and figures stand: a path of keys leads from spot to spot.

/// A figure of `usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Input,
    Output,
    Total,
}

/// A place in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// The whole text.
    Root,
    /// What an event of the responses API is about.
    Response,
    Usage,
    Figure(Figure),
    Model,
    Choices,
    Choice,
    /// A message, or what is added to one.
    Message,
    /// Text, or a list of parts.
    Content,
    Part,
    Calls,
    Call,
    Function,
    /// Output items of the responses API.
    Items,
    Item,
    /// Embeddings.
    Data,
    Datum,
    Embedding,
    Text,
    /// Nothing that is looked for.
    Elsewhere,
}

impl Spot {
    /// The value of a key of the object here.
    pub(super) const fn member(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Root, b"response") => Self::Response,
            (Self::Root | Self::Response, b"usage") => Self::Usage,
            (Self::Root | Self::Response, b"model") => Self::Model,
            (Self::Root, b"choices") => Self::Choices,
            (Self::Root, b"output") => Self::Items,
            (Self::Root, b"data") => Self::Data,
            (Self::Usage, b"prompt_tokens" | b"input_tokens") => Self::Figure(Figure::Input),
            (Self::Usage, b"completion_tokens" | b"output_tokens") => Self::Figure(Figure::Output),
            (Self::Usage, b"total_tokens") => Self::Figure(Figure::Total),
            (Self::Choice, b"delta" | b"message") => Self::Message,
            (Self::Message | Self::Item, b"content") => Self::Content,
            (Self::Message, b"tool_calls") => Self::Calls,
            (Self::Message, b"function_call") | (Self::Call, b"function") => Self::Function,
            // `delta` at the root: the responses API streams text and arguments so.
            (Self::Root, b"delta")
            | (Self::Choice | Self::Part, b"text")
            | (Self::Message | Self::Part, b"refusal")
            | (Self::Message, b"reasoning" | b"reasoning_content")
            | (Self::Function | Self::Item, b"arguments") => Self::Text,
            (Self::Datum, b"embedding") => Self::Embedding,
            _ => Self::Elsewhere,
        }
    }

    /// An element of the list here.
    pub(super) const fn element(self) -> Self {
        match self {
            Self::Choices => Self::Choice,
            Self::Content => Self::Part,
            Self::Calls => Self::Call,
            Self::Items => Self::Item,
            Self::Data => Self::Datum,
            _ => Self::Elsewhere,
        }
    }

    /// Whether anything that is looked for can lie below.
    pub(super) const fn leads_on(self) -> bool {
        !matches!(self, Self::Figure(_) | Self::Model | Self::Embedding | Self::Text | Self::Elsewhere)
    }

    /// Whether a string here is output.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Content)
    }

    /// Whether an answer that has a member here is of the format, so that its text is where the format has it. What other
    /// formats name so too (`delta`, `output`) tells nothing until its value is what the format has there.
    pub(super) const fn tells_format(self) -> bool {
        matches!(self, Self::Choices | Self::Embedding)
    }

    /// Whether an answer that has an object here is.
    pub(super) const fn tells_format_by_object(self) -> bool {
        matches!(self, Self::Response | Self::Item)
    }
}
