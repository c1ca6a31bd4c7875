//! An operator's change of the scaling rules, on whichever node: stored, taken up, run out.

use super::context::Context;
use super::scaling::changed;
use enginehouse_api::ScalingChanged;
use enginehouse_store::{DocKind, StoreError};
use serde_json::json;

/// The document of the kind [`DocKind::Scaling`] with the change.
const CHANGE: &str = "change";

impl Context {
    /// Goes back to the configured rules once the time of an operator's change has passed.
    pub(crate) fn expire_scaling_change(&self) {
        let now = self.store.now();
        let mut scaling = self.workers.scaling.lock();
        let over =
            scaling.change.as_ref().and_then(|change| change.until).is_some_and(|until| until.0 <= now);
        if over {
            let configured = &self.settings.scaling;
            (scaling.rules, scaling.shadow) = (configured.rules.clone(), configured.shadow);
            scaling.change = None;
            tracing::info!("an operator's change of the scaling rules has run out; they are as configured");
        }
    }

    /// Takes up what an operator said of the rules, on whichever node.
    pub(crate) async fn load_scaling_change(&self) -> Result<(), StoreError> {
        let docs = self.store.docs(DocKind::Scaling).await?;
        let stored = docs.into_iter().find(|doc| doc.id == CHANGE).map(|doc| doc.body);
        let change =
            stored.and_then(|body| serde_json::from_value::<Option<ScalingChanged>>(body).ok()).flatten();
        self.apply_scaling_change(change);
        Ok(())
    }

    /// Puts a change that was stored in force.
    pub(crate) fn apply_scaling_change(&self, change: Option<ScalingChanged>) {
        let configured = &self.settings.scaling;
        let changed =
            change.as_ref().map(|change| changed(&configured.rules, configured.shadow, &change.rules));
        let mut scaling = self.workers.scaling.lock();
        match changed {
            Some(Ok((rules, shadow))) => {
                (scaling.rules, scaling.shadow) = (rules, shadow);
                scaling.change = change;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "an operator's change of the scaling rules does not fit the configuration");
                (scaling.rules, scaling.shadow) = (configured.rules.clone(), configured.shadow);
                scaling.change = None;
            }
            None => {
                (scaling.rules, scaling.shadow) = (configured.rules.clone(), configured.shadow);
                scaling.change = None;
            }
        }
    }

    /// Stores an operator's change, or its end.
    pub(crate) async fn keep_scaling_change(
        &self,
        change: Option<&ScalingChanged>,
    ) -> Result<(), StoreError> {
        let body = json!(change);
        self.keep(DocKind::Scaling, CHANGE, |_| body.clone()).await
    }
}
