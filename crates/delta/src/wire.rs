//! The messages of the protocol to and from protobuf.

use std::sync::Arc;

use kds_proto::envoy::config::core::v3::{ControlPlane, Node};
use kds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use kds_proto::google::rpc::Status;
use pbjson_types::Any;
use prost::Message as _;

use crate::digest::Buckets;
use crate::message::{Answer, Nack, Refused, Request, Response, Upsert};
use crate::name::{Name, Nonce, TypeUrl, Version};

/// In `system_version_info`, which Kuma leaves empty and nobody reads: the set goes on in the next response.
const MORE: &str = "more";
/// There too: which buckets the set that begins here replaces, as a hexadecimal number.
const BUCKETS: &str = "buckets=";

/// The details of a NACK in the form that gRPC defines for "these parts of what you sent are wrong". Our own peers read
/// the names from it; a Kuma peer reads the message alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// A message that means nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidMessage {
    /// Nothing says what the message is about.
    #[error("a discovery message has no `type_url`")]
    NoType,
    /// A resource without a name could never be referred to again.
    #[error("a resource of type `{0}` has no name")]
    NoName(TypeUrl),
}

/// Reads a subscriber's message. Its node, if there is one, stays with the caller.
///
/// # Errors
/// The message has no type.
pub fn parse_request(message: DeltaDiscoveryRequest) -> Result<Request, InvalidMessage> {
    if message.type_url.is_empty() {
        return Err(InvalidMessage::NoType);
    }
    // An answer is told by its nonce alone. An error without a nonce answers nothing.
    let answer = (!message.response_nonce.is_empty()).then(|| Answer {
        nonce: Nonce::from(message.response_nonce),
        nack: message.error_detail.map(parse_nack),
    });
    Ok(Request {
        type_url: TypeUrl::from(message.type_url),
        subscribe: message
            .resource_names_subscribe
            .into_iter()
            .map(Name::from)
            .collect(),
        unsubscribe: message
            .resource_names_unsubscribe
            .into_iter()
            .map(Name::from)
            .collect(),
        initial_versions: message
            .initial_resource_versions
            .into_iter()
            .map(|(name, version)| (Name::from(name), Version::from(version)))
            .collect(),
        answer,
    })
}

/// Writes a subscriber's message. Every one carries a node: a Kuma publisher needs it in ACKs too.
#[must_use]
pub fn request(request: Request, node: Node) -> DeltaDiscoveryRequest {
    let Request {
        type_url,
        subscribe,
        unsubscribe,
        initial_versions,
        answer,
    } = request;
    let (response_nonce, error_detail) = match answer {
        None => (String::new(), None),
        Some(Answer { nonce, nack }) => (nonce.to_string(), nack.map(status)),
    };
    DeltaDiscoveryRequest {
        node: Some(node),
        type_url: type_url.to_string(),
        resource_names_subscribe: subscribe.iter().map(Name::to_string).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(Name::to_string).collect(),
        initial_resource_versions: initial_versions
            .into_iter()
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect(),
        response_nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

/// Reads a publisher's message.
///
/// # Errors
/// The message has no type, or a resource no name.
pub fn parse_response(message: DeltaDiscoveryResponse) -> Result<Response, InvalidMessage> {
    if message.type_url.is_empty() {
        return Err(InvalidMessage::NoType);
    }
    let type_url = TypeUrl::from(message.type_url);
    let upserts = message
        .resources
        .into_iter()
        .map(|resource| {
            if resource.name.is_empty() {
                return Err(InvalidMessage::NoName(type_url.clone()));
            }
            let any = resource.resource.unwrap_or_default();
            Ok(Upsert {
                name: Name::from(resource.name),
                version: Version::from(resource.version),
                body_type: Some(Arc::from(any.type_url)),
                body: any.value,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Response {
        type_url,
        nonce: Nonce::from(message.nonce),
        upserts,
        removals: message
            .removed_resources
            .into_iter()
            .map(Name::from)
            .collect(),
        more: words(&message.system_version_info).any(|word| word == MORE),
        buckets: words(&message.system_version_info)
            .find_map(|word| word.strip_prefix(BUCKETS))
            .and_then(|bits| u32::from_str_radix(bits, 16).ok())
            .map(Buckets),
    })
}

/// Writes a publisher's message. `body_type` is the type of every body that does not name its own; `identifier` is what
/// the publisher calls itself.
#[must_use]
pub fn response(response: Response, body_type: &str, identifier: &str) -> DeltaDiscoveryResponse {
    let Response {
        type_url,
        nonce,
        upserts,
        removals,
        more,
        buckets,
    } = response;
    let mut info = Vec::new();
    if more {
        info.push(MORE.to_owned());
    }
    if let Some(Buckets(bits)) = buckets {
        info.push(format!("{BUCKETS}{bits:x}"));
    }
    let resources = upserts
        .into_iter()
        .map(|upsert| Resource {
            name: upsert.name.to_string(),
            version: upsert.version.to_string(),
            resource: Some(Any {
                type_url: upsert.body_type.as_deref().unwrap_or(body_type).to_owned(),
                value: upsert.body,
            }),
            ..Resource::default()
        })
        .collect();
    DeltaDiscoveryResponse {
        system_version_info: info.join(" "),
        resources,
        type_url: type_url.to_string(),
        nonce: nonce.to_string(),
        removed_resources: removals.iter().map(Name::to_string).collect(),
        control_plane: Some(ControlPlane {
            identifier: identifier.to_owned(),
        }),
        ..DeltaDiscoveryResponse::default()
    }
}

fn words(info: &str) -> impl Iterator<Item = &str> {
    info.split(' ')
}

fn status(nack: Nack) -> Status {
    let Nack { message, refused } = nack;
    let details = (!refused.is_empty()).then(|| {
        let field_violations = refused
            .into_iter()
            .map(|Refused { name, reason }| FieldViolation {
                field: name.to_string(),
                description: reason,
            })
            .collect();
        Any {
            type_url: BAD_REQUEST.to_owned(),
            value: BadRequest { field_violations }.encode_to_vec().into(),
        }
    });
    Status {
        code: 0,
        message,
        details: details.into_iter().collect(),
    }
}

fn parse_nack(status: Status) -> Nack {
    let refused = status
        .details
        .iter()
        .filter(|any| any.type_url == BAD_REQUEST)
        // Details that do not decode are as good as none: the whole response counts as refused.
        .filter_map(|any| BadRequest::decode(any.value.clone()).ok())
        .flat_map(|bad| bad.field_violations)
        .map(|violation| Refused {
            name: Name::from(violation.field),
            reason: violation.description,
        })
        .collect();
    Nack {
        message: status.message,
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_keeps_its_names_across_the_wire() {
        let sent = Request {
            answer: Some(Answer {
                nonce: "7".into(),
                nack: Some(Nack {
                    message: "user error".into(),
                    refused: vec![Refused {
                        name: "a.default".into(),
                        reason: "bad".into(),
                    }],
                }),
            }),
            ..Request::new("MeshTimeout".into())
        };
        let message = request(sent.clone(), Node::default());
        assert!(message.node.is_some());
        assert_eq!(parse_request(message), Ok(sent));
    }

    #[test]
    fn a_response_survives_the_wire() {
        let sent = Response {
            type_url: "Mesh".into(),
            nonce: "1".into(),
            upserts: vec![Upsert {
                name: "default.".into(),
                version: "v1".into(),
                body_type: None,
                body: vec![1, 2].into(),
            }],
            removals: vec!["old.".into()],
            more: true,
            buckets: Some(Buckets(0xa0)),
        };
        let message = response(sent.clone(), "t/kuma", "global");
        let mut want = sent;
        for upsert in &mut want.upserts {
            upsert.body_type = Some("t/kuma".into());
        }
        assert_eq!(parse_response(message), Ok(want));
    }

    #[test]
    fn a_message_without_type_is_refused() {
        assert_eq!(
            parse_request(DeltaDiscoveryRequest::default()),
            Err(InvalidMessage::NoType)
        );
    }
}
