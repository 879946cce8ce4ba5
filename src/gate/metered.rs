//! An answer of a language model as it flows: what it uses is counted, covered by the request's budget before it is
//! passed on, and settled at its end, however it ends. Routes without `usage:` have none of this.
//!
//! Nothing is buffered and no byte is changed. Of an event stream that a hard budget has no more for, the event that is
//! not covered is left out and a last one says why (in OpenAI's words, so that its clients raise an error, and as a
//! problem document); an event of which a part was passed on already is let through. Any other answer is cut.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header, response};
use http_body::{Body, Frame, SizeHint};

use crate::{
    config::settings::Usage,
    gate::{
        body::{BodyFault, GateBody},
        exchange::Exchange,
        problem,
        refusal::Refusal,
    },
    policy::{
        quota::Amounts,
        reason::Reason,
        usage::{Meter, Shape, Source, Tokens, tokens_of_bytes},
    },
    store::quotas::Budget,
    telemetry::{
        metrics::{TokenKind, TokenSource, UsageMetrics},
        record::Record,
    },
};

/// The most of an event that is let through although it is not covered.
const GRACE: usize = 64 << 10;

/// How a route's answers are metered.
#[derive(Debug)]
pub struct Metering {
    /// As the configuration says.
    pub usage: Usage,
    /// Its counters.
    pub metrics: Arc<UsageMetrics>,
}

impl Metering {
    /// What these tokens are to a budget.
    fn amounts(&self, tokens: Tokens, model: Option<&str>) -> Amounts {
        let micros = self.usage.prices.as_ref().map_or(0, |prices| prices.of(model).of(tokens));
        Amounts { tokens: tokens.total(), micros }
    }

    fn count(&self, input: (u64, Source), output: (u64, Source)) {
        for (kind, (tokens, source)) in [(TokenKind::Input, input), (TokenKind::Output, output)] {
            self.metrics.tokens.of(kind).of(TokenSource::from(source)).add(tokens);
        }
    }

    /// Input that nobody has told of, by the bytes of the request.
    fn counted_input(&self, record: &Record) -> u64 {
        if self.usage.count_input { tokens_of_bytes(record.received()) } else { 0 }
    }
}

/// A request on its way to a metered service, until its answer has a head. Dropped before that, its client has hung up:
/// what was sent is counted as read.
#[derive(Debug)]
pub struct Asked {
    metering: Arc<Metering>,
    record: Arc<Record>,
    /// `None`: it is settled, or goes on with the answer.
    budget: Option<Budget>,
}

impl Asked {
    /// `None`: its route is not metered.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the routing layer.
    pub fn begin(exchange: &Exchange) -> Result<Option<Self>, Refusal> {
        let Some(metering) = exchange.route()?.metering.clone() else { return Ok(None) };
        let budget = exchange.take_budget().unwrap_or_default();
        Ok(Some(Self { metering, record: Arc::clone(exchange.record()), budget: Some(budget) }))
    }

    /// There is no answer: nothing was used.
    pub fn failed(mut self) {
        self.budget = None;
    }

    /// The body of an answer with this head, metered if it is a success; `is_open`: an event can be added to it. What is no
    /// success has used nothing.
    #[must_use]
    pub fn answered(mut self, inner: GateBody, head: &response::Parts, is_open: bool) -> GateBody {
        let budget = self.budget.take().filter(|_| head.status.is_success());
        match budget {
            Some(budget) => {
                let by = (Arc::clone(&self.metering), Arc::clone(&self.record));
                GateBody::boxed(Metered::new(inner, &head.headers, is_open, budget, by))
            }
            None => inner,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(budget) = self.budget.take() else { return };
        let tokens = Tokens { input: self.metering.counted_input(&self.record), output: 0 };
        self.metering.count((tokens.input, Source::Counted), (0, Source::Counted));
        self.record.set_tokens(tokens.input, 0);
        budget.settle(self.metering.amounts(tokens, None));
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It flows.
    Flows,
    /// So many bytes more of an event that is under way, then it ends.
    Ends { grace: usize },
    /// It is over.
    Over,
}

/// The body of an answer that is metered.
struct Metered {
    inner: GateBody,
    meter: Meter,
    metering: Arc<Metering>,
    record: Arc<Record>,
    /// `None`: it is settled.
    budget: Option<Budget>,
    course: Course,
    /// It can be given a last event.
    is_open: bool,
    /// What came and was not passed on, of which `read` bytes are read and `covered` may go.
    frame: Bytes,
    read: usize,
    covered: usize,
    /// What was read last began where it can be left out.
    from_boundary: bool,
    /// Output when it was last covered, tokens.
    output: u64,
    /// The quota that had no more.
    used_up: Option<Arc<str>>,
}

impl Metered {
    /// Meters an answer with this head; `is_open`: an event can be added to it.
    fn new(
        inner: GateBody,
        head: &HeaderMap,
        is_open: bool,
        budget: Budget,
        (metering, record): (Arc<Metering>, Arc<Record>),
    ) -> Self {
        let value = |name| head.get(name).map(http::HeaderValue::as_bytes);
        let shape = Shape::of(value(header::CONTENT_TYPE), value(header::CONTENT_ENCODING));
        Self {
            inner,
            meter: Meter::new(shape),
            metering,
            record,
            budget: Some(budget),
            course: Course::Flows,
            is_open: is_open && shape == Shape::Events,
            frame: Bytes::new(),
            read: 0,
            covered: 0,
            from_boundary: true,
            output: 0,
            used_up: None,
        }
    }

    /// Whether what was read so far is covered. What the service says it used is not looked at before the end: an answer
    /// is not ended by its own last word.
    fn poll_cover(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(budget) = &mut self.budget else { return Poll::Ready(true) };
        let tokens = Tokens { input: self.metering.counted_input(&self.record), output: self.meter.counted() };
        let covered = ready!(budget.poll_cover(self.metering.amounts(tokens, self.meter.model()), cx));
        if covered {
            self.output = tokens.output;
        } else {
            self.used_up = budget.used_up().cloned();
        }
        Poll::Ready(covered)
    }

    /// Reads what came, event by event, as far as it is covered; gives what may be passed on.
    fn poll_pieces(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            if self.read > self.covered {
                match self.poll_cover(cx) {
                    Poll::Ready(true) => self.covered = self.read,
                    Poll::Ready(false) => return self.run_dry(),
                    Poll::Pending if self.covered > 0 => return self.pass(),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let rest = self.frame.get(self.read..).unwrap_or_default();
            if rest.is_empty() {
                return self.pass();
            }
            self.from_boundary = self.meter.between_events() || !self.meter.has_begun();
            self.read += self.meter.read(rest);
        }
    }

    /// Passes on what is covered.
    fn pass(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let piece = self.frame.split_to(self.covered.min(self.frame.len()));
        (self.read, self.covered) = (self.read - piece.len(), 0);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// The budget has no more.
    fn run_dry(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if !self.is_open {
            self.settle(false, true);
            return self.cut();
        }
        self.course = Course::Ends { grace: GRACE };
        if self.from_boundary {
            self.settle(false, true);
            let before = self.frame.split_to(self.covered);
            return self.end(&before);
        }
        self.poll_rest()
    }

    fn cut(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.metering.metrics.ended.inc();
        self.course = Course::Over;
        (self.inner, self.frame) = (GateBody::Empty, Bytes::new());
        Poll::Ready(Some(Err(BodyFault::Cut(Reason::BudgetUsedUp))))
    }

    /// The last of it: `before`, and an event that says why.
    fn end(&mut self, before: &[u8]) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.record.set_reason(Reason::BudgetUsedUp);
        self.metering.metrics.ended.inc();
        self.course = Course::Over;
        // Dropping the service's body closes its connection, which tells it to stop.
        (self.inner, self.frame) = (GateBody::Empty, Bytes::new());
        let last = problem::last_event(Reason::BudgetUsedUp, self.used_up.as_deref(), &self.record);
        let mut data = BytesMut::with_capacity(before.len() + last.len());
        data.extend_from_slice(before);
        data.extend_from_slice(last.as_bytes());
        Poll::Ready(Some(Ok(Frame::data(data.freeze()))))
    }

    /// The rest of an event that began before.
    fn poll_rest(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Course::Ends { grace } = self.course else { return Poll::Ready(None) };
        if !self.meter.between_events() && self.read == self.frame.len() && self.read < grace {
            self.course = Course::Ends { grace: grace - self.read };
            (self.covered, self.from_boundary) = (self.read, false);
            return self.pass();
        }
        let before = self.frame.split_to(self.read);
        self.settle(false, false);
        if self.meter.between_events() { self.end(&before) } else { self.cut() }
    }

    /// Tells what was used; `whole`: the answer came to its end; `covered`: what was read last is left out.
    fn settle(&mut self, whole: bool, covered: bool) {
        let Some(budget) = self.budget.take() else { return };
        let used = self.meter.used(whole);
        let output = if covered && used.source == Source::Counted { self.output } else { used.output };
        let (input, of_input) = match used.input {
            Some(input) => (input, Source::Reported),
            None => (self.metering.counted_input(&self.record), Source::Counted),
        };
        self.metering.count((input, of_input), (output, used.source));
        self.record.set_tokens(input, output);
        budget.settle(self.metering.amounts(Tokens { input, output }, self.meter.model()));
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        loop {
            match this.course {
                Course::Over => return Poll::Ready(None),
                Course::Flows if !this.frame.is_empty() => return this.poll_pieces(cx),
                Course::Ends { .. } if !this.frame.is_empty() => return this.poll_rest(),
                Course::Flows | Course::Ends { .. } => {}
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        (this.frame, this.read, this.covered) = (data, 0, 0);
                        if matches!(this.course, Course::Ends { .. }) {
                            this.read = this.meter.read(&this.frame);
                        }
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(fault)) => {
                    this.settle(false, false);
                    this.course = Course::Over;
                    return Poll::Ready(Some(Err(fault)));
                }
                None => {
                    this.settle(true, false);
                    this.course = Course::Over;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.course == Course::Over || (self.frame.is_empty() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.frame.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(if self.is_open { 0 } else { inner.lower().saturating_add(rest) });
        if let Some(upper) = inner.upper().filter(|_| !self.is_open) {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Who has all of an answer need not ask for its end.
        let whole = self.is_end_stream();
        self.settle(whole, false);
    }
}
