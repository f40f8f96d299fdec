//! Handling of messages from the peer.

use std::time::Instant;

use bgp_packet::{Family, Message, RouteRefresh};

use super::{Dialler, Session, phase_state};
use crate::{
    connection::{Agreement, Direction, OpenPhase},
    error::SessionError,
    negotiation::Negotiated,
    output::SessionOutput,
};

impl Session {
    pub(super) fn message_received(
        &mut self,
        direction: Direction,
        message: Message,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        self.counters.messages_received += 1;
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let id = connection.id;
        match (&connection.phase, message) {
            (_, Message::Notification(notification)) => {
                let error = SessionError::NotificationReceived(notification);
                self.end_connection(direction, error, now, outputs);
            }
            (OpenPhase::OpenSent { .. }, Message::Open(open)) => {
                match Negotiated::new(&self.settings, &open) {
                    Ok(negotiated) => self.confirm(direction, negotiated, now, outputs),
                    Err(error) => self.end_connection(direction, error, now, outputs),
                }
            }
            (OpenPhase::OpenConfirm(_), Message::Keepalive) => {
                self.establish(direction, now, outputs);
            }
            (OpenPhase::Established(_), Message::Keepalive) => self.restart_hold_timer(id, now),
            (OpenPhase::Established(_), Message::Update(update)) => {
                self.counters.updates_received += 1;
                self.restart_hold_timer(id, now);
                outputs.push(SessionOutput::Updated(id, update));
            }
            (OpenPhase::Established(agreement), Message::RouteRefresh(RouteRefresh { family })) => {
                let is_negotiated = |family: &Family| {
                    let mut families = agreement.negotiated.families.iter();
                    families.any(|negotiated| negotiated.family == *family)
                };
                // RFC 2918 section 4: a request for a family that was not negotiated is ignored.
                if let Some(family) = family.filter(is_negotiated) {
                    outputs.push(SessionOutput::RefreshRequested(id, family));
                }
                self.restart_hold_timer(id, now);
            }
            (
                OpenPhase::OpenSent { .. },
                message @ (Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_)),
            )
            | (
                OpenPhase::OpenConfirm(_),
                message @ (Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)),
            )
            | (OpenPhase::Established(_), message @ Message::Open(_)) => {
                let error = SessionError::UnexpectedMessage {
                    message: message_name(&message),
                    state: phase_state(&connection.phase),
                };
                self.end_connection(direction, error, now, outputs);
            }
        }
    }

    /// Continues with a connection after this side has accepted the OPEN message of the peer. If
    /// the session has two connections, keeps an established connection, or else the connection
    /// that the side with the higher router id opened.
    ///
    /// RFC 4271 section 6.8 allows the session to close a connection as soon as the router id of
    /// the peer is known, even if the other connection is in OpenSent. Therefore the order in which
    /// the OPEN messages arrive does not change which connection is kept.
    fn confirm(
        &mut self,
        direction: Direction,
        negotiated: Negotiated,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        // RFC 6286 section 2.3: if the router ids are equal, the AS numbers are compared.
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
        // A connection that wins a collision makes a pending dial useless. If the dialled
        // connection would win, the dial continues: the peer might have accepted the dialled
        // connection, and might therefore close the connection that this OPEN message arrived on.
        if direction == winner {
            self.cancel_dial(outputs);
        }
        let hold_deadline = negotiated.hold_time.map(|hold_time| now + hold_time);
        let keepalive_deadline = self.keepalive_deadline(negotiated.keepalive_interval(), now);
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let id = connection.id;
        outputs.push(SessionOutput::SetCodecOptions {
            connection: id,
            decoder: negotiated.decoder_options(),
            encoder: negotiated.encoder_options(),
        });
        connection.phase = OpenPhase::OpenConfirm(Agreement {
            negotiated,
            hold_deadline,
            keepalive_deadline,
        });
        self.send(id, Message::Keepalive, outputs);
    }

    /// Cancels a pending dial. The caller has found that a dialled connection could not replace the
    /// existing connection.
    fn cancel_dial(&mut self, outputs: &mut Vec<SessionOutput>) {
        if self.dialler == Dialler::Dialling {
            outputs.push(SessionOutput::CancelDial);
        }
        self.dialler = Dialler::Connected;
    }

    fn establish(&mut self, direction: Direction, now: Instant, outputs: &mut Vec<SessionOutput>) {
        self.cancel_dial(outputs);
        if self.slot(direction.other()).is_some() {
            // The other connection was opened after `confirm` had compared the router ids, and the
            // peer has sent no OPEN message on the other connection.
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
        connection.phase = OpenPhase::Established(agreement);
        outputs.push(SessionOutput::Established(connection.id, negotiated));
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
