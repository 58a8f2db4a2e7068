//! The example from outside: real processes, real files, real databases. Only the domain and the
//! projection are tested inside.

mod api;
mod command_line;
mod crash;
mod demo;
mod domain;
mod live;
mod outage;
mod projection;
mod servers;
mod support;
