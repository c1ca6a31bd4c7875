//! The OpenAPI 3.1 document, made from the route table and the wire types.

use crate::query::QueryParam;
use crate::routes;
use crate::table::{Access, Content, HeaderParam, Operation, Route, Shape, Success, Tag, Verb};
use enginehouse_api::{Code, Problem, id_schema};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What every route that needs a key can answer.
const OF_POLICY: &[Code] = &[Code::Unauthorized, Code::Forbidden, Code::StoreUnavailable];
/// What every route can answer: its parameters are checked, whether it takes any or not.
const OF_ALL: &[Code] = &[Code::InvalidField, Code::UnknownField, Code::UriTooLong, Code::Internal];
/// What every route that reads a body (or makes sure that there is none) can answer.
const OF_BODY: &[Code] =
    &[Code::InvalidJson, Code::TooDeep, Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType];

/// The document as JSON.
#[must_use]
pub fn openapi() -> Value {
    let mut schemas = BTreeMap::new();
    collect(Shape::of::<Problem>(), &mut schemas);
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let Some(operation) = &route.operation else { continue };
        for shape in shapes(operation) {
            collect(shape, &mut schemas);
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.verb.lower()] = describe(route, operation);
    }
    let tags: Vec<Value> =
        Tag::ALL.iter().map(|(tag, text)| json!({"name": tag.name(), "description": text})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Enginehouse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A durable execution service in front of AI workflow engines. Errors are RFC 9457 problems \
                            with a stable `code`; /docs/errors explains each.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This service."}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; its scopes say what it may do."},
            },
        },
    })
}

/// The document as text, one form for the answer and for docs/openapi.json.
#[must_use]
pub fn openapi_json() -> String {
    format!("{:#}\n", openapi())
}

fn shapes(operation: &Operation) -> impl Iterator<Item = Shape> {
    let answers = operation.answers.iter().filter_map(|success| match success.content {
        Content::Json(shape) => Some(shape),
        Content::AnyJson | Content::EventStream | Content::Nothing => None,
    });
    answers.chain(operation.body)
}

fn collect(shape: Shape, schemas: &mut BTreeMap<String, Value>) {
    let mut parts = vec![((shape.name)().into_owned(), (shape.schema)())];
    (shape.collect)(&mut parts);
    for (name, schema) in parts {
        schemas.entry(name).or_insert_with(|| json!(schema));
    }
}

fn reference(shape: Shape) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", (shape.name)())})
}

fn describe(route: &Route, operation: &Operation) -> Value {
    let mut said = json!({
        "operationId": operation.id,
        "tags": [operation.tag.name()],
        "summary": operation.summary,
        "responses": responses(route, operation),
    });
    let scope = match route.access {
        Access::Public => None,
        Access::Scope(scope) => Some(format!("Needs the scope `{}`.", scope.as_str())),
    };
    let description = [operation.description, scope.as_deref().unwrap_or_default()].join(" ");
    if !description.trim().is_empty() {
        said["description"] = json!(description.trim());
    }
    if scope.is_some() {
        said["security"] = json!([{"bearer": []}]);
    }
    let parameters = parameters(route, operation);
    if !parameters.is_empty() {
        said["parameters"] = json!(parameters);
    }
    if let Some(shape) = operation.body {
        said["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": reference(shape)}}});
    }
    said
}

fn parameters(route: &Route, operation: &Operation) -> Vec<Value> {
    let path = variable(route.path).map(|name| {
        let schema = match route.path.starts_with("/v1/executions/") {
            true => id_schema(),
            false => json!({"type": "string", "minLength": 1}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    });
    let query = operation.query.iter().map(|QueryParam { name, description, schema, list }| {
        let mut said = json!({"name": name, "in": "query", "description": description, "schema": schema()});
        if *list {
            said["style"] = json!("form");
            said["explode"] = json!(true);
        }
        said
    });
    let headers = operation.headers.iter().map(|HeaderParam { name, description, schema }| {
        json!({"name": name, "in": "header", "description": description, "schema": schema()})
    });
    path.into_iter().chain(query).chain(headers).collect()
}

/// The variable segment of a path template.
fn variable(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once('{')?;
    rest.split_once('}').map(|(name, _)| name)
}

fn responses(route: &Route, operation: &Operation) -> Value {
    let mut said = Map::new();
    for answer in operation.answers {
        said.insert(answer.status.to_string(), success(answer));
    }
    let mut problems: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in codes(route, operation) {
        problems.entry(code.status()).or_default().push(code.as_str());
    }
    for (status, codes) in problems {
        let words: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let answer = json!({
            "description": format!("A problem with code {}.", words.join(", ")),
            "headers": {"X-Request-Id": header("Names this request in a report.")},
            "content": {"application/problem+json": {"schema": reference(Shape::of::<Problem>())}},
        });
        said.insert(status.to_string(), answer);
    }
    Value::Object(said)
}

/// Every code the route can answer with.
fn codes(route: &Route, operation: &Operation) -> BTreeSet<Code> {
    let mut codes: BTreeSet<Code> = operation.problems.iter().chain(OF_ALL).copied().collect();
    if matches!(route.access, Access::Scope(_)) {
        codes.extend(OF_POLICY);
    }
    if route.verb != Verb::Get {
        codes.extend(OF_BODY);
    }
    if variable(route.path).is_some() {
        codes.insert(Code::NotFound);
    }
    codes
}

fn header(description: &str) -> Value {
    json!({"description": description, "schema": {"type": "string"}})
}

fn success(answer: &Success) -> Value {
    let mut said = json!({
        "description": answer.description,
        "headers": {"X-Request-Id": header("Names this request in a report.")},
    });
    for (name, description) in answer.headers {
        said["headers"][*name] = header(description);
    }
    match &answer.content {
        Content::Json(shape) => said["content"] = json!({"application/json": {"schema": reference(*shape)}}),
        Content::AnyJson => said["content"] = json!({"application/json": {"schema": {}}}),
        Content::EventStream => {
            said["content"] = json!({"text/event-stream": {"schema": {"type": "string"}}})
        }
        Content::Nothing => {}
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.insert(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = openapi();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for to in &found {
            assert!(document.pointer(&to[1..]).is_some(), "{to}");
        }
        for name in document["components"]["schemas"].as_object().expect("an object").keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is never named");
        }
    }

    #[test]
    fn every_operation_has_its_own_id_and_says_what_can_go_wrong() {
        let document = openapi();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("an object") {
            for (verb, operation) in item.as_object().expect("an object") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{id} stands twice");
                let guarded = path.starts_with("/v1/");
                assert_eq!(operation.get("security").is_some(), guarded, "{verb} {path}");
                assert_eq!(operation["responses"].get("401").is_some(), guarded, "{verb} {path}");
            }
        }
        assert!(ids.len() > 25, "{} operations", ids.len());
    }
}
