//! The types of the route table: what every route must say about itself. The table itself is
//! [`routes::TABLE`](crate::routes::TABLE).

use crate::call::{Call, ResponseFuture};
use crate::query::QueryParam;
use enginehouse_api::Code;
use enginehouse_runtime::Scope;
use serde_json::Value;
use std::borrow::Cow;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Verb {
    /// As OpenAPI writes it.
    pub(crate) fn lower(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Post => "post",
            Verb::Put => "put",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }
}

/// Who may call a route. There is no default: a route cannot be written without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody, with or without a key.
    Public,
    /// Keys with this scope (or `admin`).
    Scope(Scope),
}

pub(crate) struct Route {
    pub(crate) verb: Verb,
    /// A path template with at most one variable segment.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: fn(Call) -> ResponseFuture,
    /// Absent only for pages made for people.
    pub(crate) operation: Option<Operation>,
}

/// What the OpenAPI document says about a route.
pub(crate) struct Operation {
    pub(crate) id: &'static str,
    pub(crate) tag: Tag,
    pub(crate) summary: &'static str,
    /// More about it; may be empty.
    pub(crate) description: &'static str,
    pub(crate) query: &'static [QueryParam],
    pub(crate) headers: &'static [HeaderParam],
    pub(crate) body: Option<Shape>,
    pub(crate) answers: &'static [Success],
    /// Codes beside those that follow from the access, the body, the path and the query.
    pub(crate) problems: &'static [Code],
}

impl Operation {
    /// The start of every entry; the rest is filled in by the table.
    pub(crate) const fn new(id: &'static str, tag: Tag, summary: &'static str) -> Operation {
        Operation {
            id,
            tag,
            summary,
            description: "",
            query: &[],
            headers: &[],
            body: None,
            answers: &[],
            problems: &[],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    Executions,
    Engines,
    Queue,
    Workers,
    WorkerProtocol,
    Keys,
    Service,
}

impl Tag {
    pub(crate) const ALL: [(Tag, &'static str); 7] = [
        (Tag::Executions, "Submit, read and steer executions."),
        (Tag::Engines, "The configured engines."),
        (Tag::Queue, "The backlog and the totals."),
        (Tag::Workers, "Who runs the work."),
        (Tag::WorkerProtocol, "What workers elsewhere say; docs/WORKERS.md tells how it is used."),
        (Tag::Keys, "API keys."),
        (Tag::Service, "The service itself."),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tag::Executions => "Executions",
            Tag::Engines => "Engines",
            Tag::Queue => "Queue and metrics",
            Tag::Workers => "Workers",
            Tag::WorkerProtocol => "Worker protocol",
            Tag::Keys => "Keys",
            Tag::Service => "Service",
        }
    }
}

/// A header a route reads.
pub(crate) struct HeaderParam {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) schema: fn() -> Value,
}

/// An answer that is a success.
pub(crate) struct Success {
    pub(crate) status: u16,
    pub(crate) description: &'static str,
    pub(crate) content: Content,
    /// Headers that are always there, with what they say.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

pub(crate) enum Content {
    Json(Shape),
    /// JSON that is not a type of ours.
    AnyJson,
    EventStream,
    Nothing,
}

/// A wire type's place in the document.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) schema: fn() -> RefOr<Schema>,
    pub(crate) collect: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Shape {
    pub(crate) const fn of<T: ToSchema>() -> Shape {
        Shape { name: T::name, schema: T::schema, collect: T::schemas }
    }
}
