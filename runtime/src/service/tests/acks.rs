//! Calls that wait for an acknowledgement.

use tonic::Status;

use super::*;

/// Begins a call whose message nobody acknowledges.
async fn unacknowledged(
    bench: &Bench,
    key: &str,
) -> JoinHandle<Result<SendToUserResponse, Status>> {
    let mut client = bench.client().await;
    let (require_ack, idempotency_key) = (true, key.to_owned());
    let request = SendToUserRequest { require_ack, idempotency_key, ..direct("quiet") };
    tokio::spawn(async move { Ok(client.send_to_user(request).await?.into_inner()) })
}

/// The mid of the next message that is published.
async fn next_mid(bench: &Bench) -> Mid {
    loop {
        if let Some(published) = bench.published().first() {
            return published.mid;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_acknowledgement_that_a_caller_gives_up_is_waited_for_no_more() {
    bench(&[("ACK_TIMEOUT", "5m")], |mut bench| async move {
        let call = unacknowledged(&bench, "").await;
        let mid = next_mid(&bench).await;
        call.abort();
        bench.given_up.wait_for(|gone| gone.contains(&mid)).await.unwrap();
        // A keyed one may be repeated.
        let keyed = unacknowledged(&bench, "k").await;
        let kept = next_mid(&bench).await;
        keyed.abort();
        let other = unacknowledged(&bench, "").await;
        let mid = next_mid(&bench).await;
        other.abort();
        let gone = bench.given_up.wait_for(|gone| gone.contains(&mid)).await.unwrap();
        assert!(!gone.contains(&kept));
    });
}

#[test]
fn an_instance_that_stops_answers_with_what_is_counted() {
    bench(&[("ACK_TIMEOUT", "5m")], |bench| async move {
        let call = unacknowledged(&bench, "").await;
        next_mid(&bench).await;
        bench.phase.send_replace(Phase::Stopping);
        let answer = call.await.unwrap().unwrap();
        assert_eq!((answer.delivered, answer.connections_notified), (false, 3));
    });
}

#[test]
fn a_repeated_call_learns_what_is_counted_while_the_first_one_waits() {
    bench(&[("ACK_TIMEOUT", "5m")], |bench| async move {
        let _first = unacknowledged(&bench, "k").await;
        let mid = next_mid(&bench).await;
        bench.script(Script::DuplicateOf(mid));
        let request = SendToUserRequest { idempotency_key: "k".into(), ..direct("quiet") };
        let again = bench.client().await.send_to_user(request).await.unwrap().into_inner();
        assert!(again.duplicate && again.delivered, "{again:?}");
        assert_eq!(again.connections_notified, 3);
    });
}
