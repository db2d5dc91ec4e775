//! What is at which path.

use std::sync::Arc;

use super::health::{Health, State};
use super::metrics::Board;
use super::server::{Page, Pages};

/// Shows this board and this health.
pub fn of(board: &Arc<Board>, health: &Health) -> Arc<Pages> {
    let (board, health) = (Arc::clone(board), health.clone());
    let json = |state: State| Page {
        status: if state.status.is_fit() { 200 } else { 503 },
        content_type: "application/json",
        // A status and texts can always be written.
        body: serde_json::to_string(&state).unwrap_or_default() + "\n",
    };
    Arc::new(move |path| match path {
        "/metrics" => Some(Page {
            status: 200,
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: board.text(),
        }),
        "/healthz" => Some(json(health.alive())),
        "/readyz" => Some(json(health.ready())),
        _ => None,
    })
}
