//! Server-sent events: what the service gives, framed, with a beat while nothing happens.

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use enginehouse_runtime::{EventItem, EventStream};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// Events put into one chunk when several are ready.
const EVENTS_PER_CHUNK: usize = 64;
const BEAT: &[u8] = b": beat\n\n";

struct Feed {
    items: EventStream,
    beat: Interval,
    stop: CancellationToken,
    _room: OwnedSemaphorePermit,
}

/// Streams until the service ends the stream or the server stops. A client that does not read makes the service's
/// bounded channel full, which cuts it; it resumes with its last id.
pub(crate) fn answer(
    items: EventStream,
    beat: Duration,
    stop: CancellationToken,
    room: OwnedSemaphorePermit,
) -> Response {
    let mut beat = interval_at(Instant::now() + beat, beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feed = Feed { items, beat, stop, _room: room };
    let chunks = stream::unfold(feed, |mut feed| async move {
        let chunk = next(&mut feed).await?;
        Some((Ok::<_, Infallible>(chunk), feed))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Reverse proxies that gather answers would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

async fn next(feed: &mut Feed) -> Option<Bytes> {
    let first = tokio::select! {
        biased;
        () = feed.stop.cancelled() => return None,
        item = feed.items.recv() => item?,
        _ = feed.beat.tick() => return Some(Bytes::from_static(BEAT)),
    };
    feed.beat.reset();
    let mut chunk = BytesMut::new();
    write(&mut chunk, &first);
    for _ in 1..EVENTS_PER_CHUNK {
        let Ok(item) = feed.items.try_recv() else { break };
        write(&mut chunk, &item);
    }
    Some(chunk.freeze())
}

fn write(chunk: &mut BytesMut, item: &EventItem) {
    // JSON on one line holds no line break, and ids and names are words of ours; writing to memory cannot fail.
    let data = serde_json::to_string(&item.view).unwrap_or_else(|_| "{}".to_owned());
    // Without an id a reader keeps its last one, which is what it has to go on after.
    if !item.id.is_empty() {
        let _ = writeln!(chunk, "id: {}", item.id);
    }
    let _ = write!(chunk, "event: {}\ndata: {data}\n\n", item.view.kind);
}

#[cfg(test)]
mod tests {
    use super::*;
    use enginehouse_api::{EventView, Timestamp};
    use enginehouse_core::time::Time;
    use http_body_util::BodyExt;
    use std::sync::Arc;
    use tokio::sync::{Semaphore, mpsc};

    fn item(seq: u32) -> EventItem {
        let view = EventView {
            id: "a".to_owned(),
            seq: Some(seq),
            kind: "execution_started".to_owned(),
            at: Timestamp(Time(0)),
            attempt: 1,
            engine: None,
            status: None,
            data: serde_json::json!({"reason": "line\nbreak"}).into(),
        };
        EventItem { id: seq.to_string(), view }
    }

    async fn room() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).acquire_owned().await.expect("open")
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_framed_beats_fill_silence_and_the_end_is_the_service_s() {
        let (send, receive) = mpsc::channel(4);
        let mut body =
            answer(receive, Duration::from_secs(15), CancellationToken::new(), room().await).into_body();
        send.send(item(1)).await.expect("room");
        let frame = body.frame().await.expect("a frame").expect("good").into_data().expect("data");
        let text = std::str::from_utf8(&frame).expect("text");
        assert_eq!(
            text,
            "id: 1\nevent: execution_started\ndata: {\"id\":\"a\",\"seq\":1,\"type\":\"execution_started\",\
             \"at\":\"1970-01-01T00:00:00.000Z\",\"attempt\":1,\"data\":{\"reason\":\"line\\nbreak\"}}\n\n"
        );
        let started = Instant::now();
        let beat = body.frame().await.expect("a frame").expect("good").into_data().expect("data");
        assert_eq!((&beat[..], started.elapsed().as_secs()), (BEAT, 15));
        send.send(item(2)).await.expect("room");
        send.send(item(3)).await.expect("room");
        drop(send);
        let both = body.frame().await.expect("a frame").expect("good").into_data().expect("data");
        assert_eq!(both.windows(4).filter(|w| w == b"id: ").count(), 2);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_stop_ends_the_stream() {
        let (_send, receive) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let mut body = answer(receive, Duration::from_secs(15), stop.clone(), room().await).into_body();
        stop.cancel();
        assert!(body.frame().await.is_none());
    }
}
