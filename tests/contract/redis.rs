//! The Redis that later tests stand on starts, answers and goes.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use crate::support::redis::Redis;

#[test]
fn redis_answers_ping_and_is_gone_when_dropped() {
    let redis = Redis::private();
    let socket = redis.socket();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    drop(redis);
    assert!(!socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
}
