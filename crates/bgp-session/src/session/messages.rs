//! What the peer's messages do.

use std::time::Instant;

use bgp_packet::{Family, Message, RouteRefresh};

use super::{Dialler, Session, phase_state};
use crate::{
    connection::{Agreement, Direction, Phase},
    error::SessionError,
    negotiation::Negotiated,
    output::Output,
};

impl Session {
    pub(super) fn message_received(
        &mut self,
        direction: Direction,
        message: Message,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.counters.messages_received += 1;
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let id = connection.id;
        match (&connection.phase, message) {
            (_, Message::Notification(notification)) => {
                let error = SessionError::NotificationReceived(notification);
                self.end(direction, error, now, outputs);
            }
            (Phase::OpenSent { .. }, Message::Open(open)) => {
                match Negotiated::new(&self.settings, &open) {
                    Ok(negotiated) => self.confirm(direction, negotiated, now, outputs),
                    Err(error) => self.end(direction, error, now, outputs),
                }
            }
            (Phase::OpenConfirm(_), Message::Keepalive) => {
                self.establish(direction, now, outputs);
            }
            (Phase::Established(_), Message::Keepalive) => self.restart_hold_timer(id, now),
            (Phase::Established(_), Message::Update(update)) => {
                self.counters.updates_received += 1;
                self.restart_hold_timer(id, now);
                outputs.push(Output::Updated(id, update));
            }
            (Phase::Established(agreement), Message::RouteRefresh(RouteRefresh { family })) => {
                let is_negotiated = |family: &Family| {
                    let mut families = agreement.negotiated.families.iter();
                    families.any(|negotiated| negotiated.family == *family)
                };
                // RFC 2918 section 4: one for any other family is ignored.
                if let Some(family) = family.filter(is_negotiated) {
                    outputs.push(Output::RefreshRequested(id, family));
                }
                self.restart_hold_timer(id, now);
            }
            (
                Phase::OpenSent { .. },
                message @ (Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_)),
            )
            | (
                Phase::OpenConfirm(_),
                message @ (Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)),
            )
            | (Phase::Established(_), message @ Message::Open(_)) => {
                let error = SessionError::UnexpectedMessage {
                    message: message_name(&message),
                    state: phase_state(&connection.phase),
                };
                self.end(direction, error, now, outputs);
            }
        }
    }

    /// The peer's OPEN is acceptable. Of two connections the one stays that the side with the
    /// higher router id has opened.
    ///
    /// RFC 4271 section 6.8 lets a speaker decide as soon as it knows the peer's router id, even
    /// if the other connection is in OpenSent. Both sides then come to the same end whichever
    /// message arrives first.
    fn confirm(
        &mut self,
        direction: Direction,
        negotiated: Negotiated,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        // RFC 6286 section 2.3: equal ids of different ASes are told apart by the AS.
        let ours = (self.settings.router_id, self.settings.local_asn);
        let winner = if ours > (negotiated.peer_router_id, negotiated.peer_asn) {
            Direction::Outgoing
        } else {
            Direction::Incoming
        };
        let other = direction.other();
        if let Some(connection) = self.slot(other) {
            let loser = if connection.is_established() {
                direction
            } else {
                winner.other()
            };
            self.take_down(loser, SessionError::CollisionLost(loser), now, outputs);
            if loser == direction {
                return;
            }
        }
        if direction == winner {
            self.settle(outputs);
        }
        // Else the peer may hold the connection that is being dialled already, and give this one
        // up for it.
        let hold_deadline = negotiated.hold_time.map(|hold_time| now + hold_time);
        let keepalive_deadline = self.keepalive_deadline(negotiated.keepalive_interval(), now);
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let id = connection.id;
        outputs.push(Output::SetCodecOptions {
            connection: id,
            decoder: negotiated.decoder_options(),
            encoder: negotiated.encoder_options(),
        });
        connection.phase = Phase::OpenConfirm(Agreement {
            negotiated,
            hold_deadline,
            keepalive_deadline,
        });
        self.send(id, Message::Keepalive, outputs);
    }

    /// There is a connection that nothing else can replace.
    fn settle(&mut self, outputs: &mut Vec<Output>) {
        if self.dialler == Dialler::Dialling {
            outputs.push(Output::AbandonDial);
        }
        self.dialler = Dialler::Settled;
    }

    fn establish(&mut self, direction: Direction, now: Instant, outputs: &mut Vec<Output>) {
        self.settle(outputs);
        if self.slot(direction.other()).is_some() {
            // It came after the decision above, and the peer has not sent its OPEN on it.
            let lost = SessionError::CollisionLost(direction.other());
            self.take_down(direction.other(), lost, now, outputs);
        }
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let Some(agreement) = connection.agreement_mut() else {
            return;
        };
        agreement.hold_deadline = agreement.negotiated.hold_time.map(|time| now + time);
        let agreement = agreement.clone();
        let negotiated = Box::new(agreement.negotiated.clone());
        connection.phase = Phase::Established(agreement);
        outputs.push(Output::Established(connection.id, negotiated));
        self.counters.established += 1;
        self.has_recovered = true;
    }
}

pub(super) fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Open(_) => "OPEN",
        Message::Update(_) => "UPDATE",
        Message::Notification(_) => "NOTIFICATION",
        Message::Keepalive => "KEEPALIVE",
        Message::RouteRefresh(_) => "ROUTE-REFRESH",
    }
}
