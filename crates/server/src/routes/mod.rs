//! Every route of the API, with who may call it and what the OpenAPI document says of it.

mod documents;
mod encryption;
mod engines;
mod events;
mod executions;
mod keys;
mod params;
mod scaling;
mod service;
mod submit;
mod webhooks;
pub(crate) mod worker;
mod workers;

use crate::table::Route;

/// The one table: the router and the OpenAPI document are made from it.
pub(crate) static TABLE: &[&[Route]] = &[
    submit::ROUTES,
    executions::ROUTES,
    engines::ROUTES,
    service::ROUTES,
    events::ROUTES,
    webhooks::ROUTES,
    encryption::ROUTES,
    workers::ROUTES,
    worker::ROUTES,
    scaling::ROUTES,
    keys::ROUTES,
    documents::ROUTES,
];

/// Every route, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Route> {
    TABLE.iter().flat_map(|group| group.iter())
}
