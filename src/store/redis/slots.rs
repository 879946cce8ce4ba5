//! Who counts what in a Redis Cluster: each key has one of 16,384 slots, each slot a master. One server counts all.
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use std::sync::Arc;

use redis::{ErrorKind, RedisResult, Value};

use super::node::{Node, Redirect};

/// Slots of every cluster.
const SLOTS: u16 = 16_384;

/// A server that counts, and a key of ours that it counts.
pub(super) struct Master {
    pub(super) node: Arc<Node>,
    /// What it is asked for to see whether it is there.
    pub(super) probe: String,
}

/// See the module.
#[derive(Default)]
pub(super) struct Map {
    masters: Vec<Master>,
    /// First and last slot, and index of its master; in their order.
    ranges: Vec<(u16, u16, usize)>,
}

impl Map {
    /// One server that counts everything.
    pub(super) fn single(node: Arc<Node>, prefix: &str) -> Self {
        Self { masters: vec![Master { node, probe: format!("{prefix}probe") }], ranges: vec![(0, SLOTS - 1, 0)] }
    }

    pub(super) fn masters(&self) -> &[Master] {
        &self.masters
    }

    /// Whether every master answered when it was last asked. Nobody knows any: no.
    pub(super) fn is_up(&self) -> bool {
        !self.masters.is_empty() && self.masters.iter().all(|master| master.node.is_up())
    }

    /// Who counts this key.
    pub(super) fn master_of(&self, key: &str) -> Option<&Master> {
        if let ([only], [(0, LAST, _)]) = (&*self.masters, &*self.ranges) {
            return Some(only);
        }
        self.owner(slot_of(key.as_bytes())).map(|index| &self.masters[index])
    }

    /// The master that somebody was sent to by another.
    pub(super) fn at(&self, to: &Redirect, by: &Arc<Node>) -> Option<&Arc<Node>> {
        let host = if to.host.is_empty() { &by.server.address } else { &to.host };
        self.masters.iter().map(|master| &master.node).find(|node| node.is_at(host, to.port))
    }

    fn owner(&self, slot: u16) -> Option<usize> {
        let index = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(index).filter(|(first, ..)| *first <= slot).map(|(.., master)| *master)
    }

    /// The map that `from` has told by `CLUSTER SLOTS`. Who was known already stays the same.
    pub(super) fn next(&self, slots: &[Value], from: &Arc<Node>, prefix: &str) -> RedisResult<Self> {
        let mut map = Self::default();
        for range in slots {
            let (first, last, host, port) = range_of(range).ok_or(ODD)?;
            let host = host.unwrap_or_else(|| from.server.address.clone());
            let index = if let Some(index) = map.masters.iter().position(|master| master.node.is_at(&host, port)) {
                index
            } else {
                let known = self.masters.iter().map(|master| &master.node).find(|node| node.is_at(&host, port));
                let node = match known {
                    Some(node) => Arc::clone(node),
                    None => Arc::new(from.beside(&host, port)?),
                };
                map.masters.push(Master { node, probe: String::new() });
                map.masters.len() - 1
            };
            map.ranges.push((first, last, index));
        }
        map.ranges.sort_unstable();
        let probes = (0..map.masters.len()).map(|index| map.probe(index, prefix)).collect::<Option<Vec<_>>>();
        for (master, probe) in map.masters.iter_mut().zip(probes.ok_or(ODD)?) {
            master.probe = probe;
        }
        if map.masters.is_empty() { Err(ODD.into()) } else { Ok(map) }
    }

    /// A key of ours that this one counts: one in 16,384 for whoever has a single slot.
    fn probe(&self, index: usize, prefix: &str) -> Option<String> {
        let mut keys = (0..TRIES).map(|number| format!("{prefix}probe:{number}"));
        keys.find(|key| self.owner(slot_of(key.as_bytes())) == Some(index))
    }
}

const LAST: u16 = SLOTS - 1;

/// Enough to hit one slot for all practical purposes.
const TRIES: usize = 500_000;

const ODD: (ErrorKind, &str) = (ErrorKind::Parse, "an odd map of the cluster");

fn range_of(range: &Value) -> Option<(u16, u16, Option<String>, u16)> {
    let Value::Array(parts) = range else { return None };
    let [first, last, Value::Array(master), ..] = &**parts else { return None };
    let [host, port, ..] = &**master else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let host = match host {
        Value::BulkString(name) => Some(String::from_utf8(name.clone()).ok()?).filter(|name| !name.is_empty()),
        Value::SimpleString(name) => Some(name.clone()),
        Value::Nil => None,
        _ => return None,
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last <= LAST).then_some((first, last, host, number(port)?))
}

/// The slot of a key: CRC16/XMODEM of what stands in its first `{…}`, or of all of it.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')? + 1;
        let length = key[open..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[open..open + length])
    };
    let crc = tag().unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), {
            let whole = slot_of(b"foo{}{bar}");
            assert_ne!(whole, slot_of(b"bar"));
            whole
        });
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let host = if host.is_empty() { Value::Nil } else { Value::BulkString(host.into()) };
        let master = Value::Array(vec![host, Value::Int(port), Value::BulkString("id".into())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    fn seed() -> Arc<Node> {
        Arc::new(Node::new(redis::Client::open("redis://10.0.0.1:7000").unwrap()))
    }

    #[test]
    fn each_slot_has_its_master_and_what_nobody_has_nobody_counts() {
        let slots = [
            range(8_000, 16_000, "", 7_000),
            range(0, 4_999, "10.0.0.2", 7_001),
            range(6_000, 7_999, "10.0.0.2", 7_001),
        ];
        let map = Map::default().next(&slots, &seed(), "p:").unwrap();
        let owner = |slot| map.owner(slot).map(|index| map.masters[index].node.server.address.clone());
        for (slot, host) in
            [(0, "10.0.0.2"), (4_999, "10.0.0.2"), (6_000, "10.0.0.2"), (8_000, "10.0.0.1"), (16_000, "10.0.0.1")]
        {
            assert_eq!(owner(slot).as_deref(), Some(host), "{slot}");
        }
        assert_eq!((owner(5_000), owner(16_001)), (None, None));
        assert_eq!(map.masters().len(), 2);
        for master in map.masters() {
            assert!(Arc::ptr_eq(&map.master_of(&master.probe).unwrap().node, &master.node), "{}", master.probe);
        }
    }

    #[test]
    fn who_stays_in_the_map_stays_the_same() {
        let before = Map::default().next(&[range(0, 16_383, "10.0.0.2", 7_001)], &seed(), "p:").unwrap();
        let slots = [range(0, 1, "10.0.0.2", 7_001), range(2, 16_383, "10.0.0.3", 7_001)];
        let after = before.next(&slots, &before.masters[0].node, "p:").unwrap();
        assert!(Arc::ptr_eq(&before.masters[0].node, &after.masters[0].node));
        assert_eq!(after.masters().len(), 2);
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused() {
        for odd in [
            vec![],
            vec![Value::Nil],
            vec![range(5, 4, "x", 1)],
            vec![range(0, 16_384, "x", 1)],
            vec![range(0, 1, "x", 70_000)],
        ] {
            assert!(Map::default().next(&odd, &seed(), "p:").is_err(), "{odd:?}");
        }
    }
}
