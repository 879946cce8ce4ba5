//! What a metric is made of: atomic cells, composed by type into families of bounded size.
//!
//! Nothing here takes a lock or allocates when it is counted into, but for a [`Rare`] cell, which is made when it is
//! first used; [`Named::get`] does both and belongs to set-up. prometheus-client's own `Family` and `Histogram` lock
//! and hash at each observation, hence these. Every label is either a closed enum ([`Label`]) or a [`Name`]: one from
//! the configuration, or an endpoint's address, of which there are as many as DNS gives for the configured names.
//! Nothing a client sends becomes a label.

use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// A label with a closed list of values.
pub trait Label: Copy + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value; [`Label::index`] is the place in this list.
    const ALL: &'static [Self];
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
    /// The value as exported.
    fn value(self) -> &'static str;
}

/// A label whose values are names from the configuration.
pub trait Name: fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
}

/// The labels a family has: name, and the values when the list is closed.
pub(super) type LabelRow = (&'static str, Option<Vec<&'static str>>);

/// Something that can be exported below a set of labels.
pub trait Cell: Default + fmt::Debug + Send + Sync + 'static {
    /// Its type in the exposition.
    const TYPE: MetricType;
    /// Writes its samples.
    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result;
    /// Adds the labels it has below those of its family.
    fn describe(_labels: &mut Vec<LabelRow>) {}
}

/// What is registered: a cell that the program and the registry share.
#[derive(Debug)]
pub(super) struct Exported<C>(pub(super) Arc<C>);

impl<C: Cell> EncodeMetric for Exported<C> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.export(&[], &mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        C::TYPE
    }
}

/// Calls `write` with an encoder that carries `labels` (an empty set would be written as `{}`).
fn labelled(
    labels: &[(&str, &str)],
    encoder: &mut MetricEncoder<'_>,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { write(encoder) } else { write(&mut encoder.encode_family(&labels)?) }
}

fn with<'a>(labels: &[(&'a str, &'a str)], name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    labels.iter().copied().chain([(name, value)]).collect()
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// So many more.
    pub fn add(&self, many: u64) {
        self.0.fetch_add(many, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        labelled(labels, encoder, |encoder| encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None))
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// This many.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// As many as were counted.
    pub fn set_count(&self, many: usize) {
        self.set(i64::try_from(many).unwrap_or(i64::MAX));
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Gauge {
    const TYPE: MetricType = MetricType::Gauge;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        labelled(labels, encoder, |encoder| encoder.encode_gauge(&self.get()))
    }
}

/// Upper bounds of every histogram's buckets, microseconds: from a cached answer to a long generation.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Durations, counted in buckets. Exported in seconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration; gives the place of its bucket.
    pub fn observe(&self, duration: Duration) -> usize {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_micros.fetch_add(micros, Relaxed);
        place
    }

    /// The upper bound of each bucket, seconds.
    pub(super) fn bounds() -> impl Iterator<Item = f64> {
        BOUNDS.iter().map(|micros| seconds(*micros)).chain([f64::INFINITY])
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl Cell for Histogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let buckets: Vec<_> = Self::bounds().zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed))).collect();
        // The count is the sum of what was read, so that `+Inf` and `_count` agree however busy we are.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.sum_micros.load(Relaxed));
        labelled(labels, encoder, |encoder| encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None))
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// One cell for each value of a closed label, all exported from the start.
#[derive(Debug)]
pub struct Each<L, C> {
    cells: Box<[C]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, C: Default> Default for Each<L, C> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| C::default()).collect(), label: PhantomData }
    }
}

impl<L: Label, C> Each<L, C> {
    /// The cell of a value.
    pub fn of(&self, label: L) -> &C {
        &self.cells[label.index()]
    }
}

impl<L: Label, C: Cell> Cell for Each<L, C> {
    const TYPE: MetricType = C::TYPE;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        L::ALL.iter().try_for_each(|label| self.of(*label).export(&with(labels, L::NAME, label.value()), encoder))
    }

    fn describe(labels: &mut Vec<LabelRow>) {
        labels.push((L::NAME, Some(L::ALL.iter().map(|label| label.value()).collect())));
        C::describe(labels);
    }
}

/// One cell for each value of a closed label, made and exported when it is first used.
#[derive(Debug)]
pub struct Rare<L, C> {
    cells: Box<[OnceLock<C>]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, C> Default for Rare<L, C> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| OnceLock::new()).collect(), label: PhantomData }
    }
}

impl<L: Label, C: Default> Rare<L, C> {
    /// The cell of a value.
    pub fn of(&self, label: L) -> &C {
        self.cells[label.index()].get_or_init(C::default)
    }
}

impl<L: Label, C: Cell> Cell for Rare<L, C> {
    const TYPE: MetricType = C::TYPE;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let used = L::ALL.iter().filter_map(|label| Some((label, self.cells[label.index()].get()?)));
        used.into_iter().try_for_each(|(label, cell)| cell.export(&with(labels, L::NAME, label.value()), encoder))
    }

    fn describe(labels: &mut Vec<LabelRow>) {
        Each::<L, C>::describe(labels);
    }
}

/// One cell for each name from the configuration.
#[derive(Debug)]
pub struct Named<N, C> {
    cells: RwLock<BTreeMap<Arc<str>, Arc<C>>>,
    name: PhantomData<fn(N)>,
}

impl<N, C> Default for Named<N, C> {
    fn default() -> Self {
        Self { cells: RwLock::default(), name: PhantomData }
    }
}

impl<N: Name, C: Cell> Named<N, C> {
    /// The cell of a name, made when it is new. Takes a lock: call at set-up and keep the handle.
    pub fn get(&self, name: &str) -> Arc<C> {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(name) {
            return Arc::clone(cell);
        }
        Arc::clone(cells.entry(Arc::from(name)).or_default())
    }

    /// The cell of a name, if there is one. Takes a lock.
    pub fn known(&self, name: &str) -> Option<Arc<C>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    /// Forgets every cell whose name is not wanted.
    pub fn retain(&self, wanted: &dyn Fn(&str) -> bool) {
        self.cells.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| wanted(name));
    }
}

impl<N: Name, C: Cell> Cell for Named<N, C> {
    const TYPE: MetricType = C::TYPE;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells.iter().try_for_each(|(name, cell)| cell.export(&with(labels, N::NAME, name), encoder))
    }

    fn describe(labels: &mut Vec<LabelRow>) {
        labels.push((N::NAME, None));
        C::describe(labels);
    }
}

/// A count that somebody else keeps, read when it is exported; 0 until [`Sampled::from`] names them.
#[derive(Default)]
pub struct Sampled(OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>);

impl Sampled {
    /// Reads the count with `read` from now on. The first call stands.
    pub fn from(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(read));
    }

    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.get().map_or(0, |read| read())
    }
}

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sampled").field(&self.get()).finish()
    }
}

impl Cell for Sampled {
    const TYPE: MetricType = MetricType::Counter;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        labelled(labels, encoder, |encoder| encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None))
    }
}

/// A fact that changes now and then: always 1, told by its one label; nothing until it is known.
#[derive(Debug)]
pub struct Told<N> {
    value: RwLock<Option<String>>,
    name: PhantomData<fn(N)>,
}

impl<N> Default for Told<N> {
    fn default() -> Self {
        Self { value: RwLock::default(), name: PhantomData }
    }
}

impl<N> Told<N> {
    /// From now on it is this.
    pub fn set(&self, value: &str) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Some(value.to_owned());
    }
}

impl<N: Name> Cell for Told<N> {
    const TYPE: MetricType = MetricType::Gauge;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = &*value else { return Ok(()) };
        labelled(&with(labels, N::NAME, value), encoder, |encoder| encoder.encode_gauge(&1_i64))
    }

    fn describe(labels: &mut Vec<LabelRow>) {
        labels.push((N::NAME, None));
    }
}

/// The build: always 1, told by its labels.
#[derive(Debug, Default)]
pub struct Build;

impl Cell for Build {
    const TYPE: MetricType = MetricType::Gauge;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let labels = with(labels, "version", env!("CARGO_PKG_VERSION"));
        let labels = with(&labels, "os", std::env::consts::OS);
        labelled(&with(&labels, "arch", std::env::consts::ARCH), encoder, |encoder| encoder.encode_gauge(&1_i64))
    }

    fn describe(labels: &mut Vec<LabelRow>) {
        labels.extend([("version", None), ("os", None), ("arch", None)]);
    }
}
