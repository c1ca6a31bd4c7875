//! Traces through the lab.
