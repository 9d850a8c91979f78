//! `top`: the busiest hosts, live.

use super::failure::Failure;
use super::request::Api;

pub async fn run(_api: &Api, _hosts: u32, _json: bool) -> Result<(), Failure> {
    Err(Failure::Other("later".into()))
}
