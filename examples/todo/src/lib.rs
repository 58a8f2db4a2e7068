//! A to-do application on Backstory. The README says which idea is in which file.

pub mod app;
pub mod cli;
pub mod demo;
pub mod http;
pub mod live;
pub mod panel;
pub mod place;
pub mod problem;
pub mod projections;
pub mod read_model;
pub mod search;
pub mod serve;
pub mod todo;
