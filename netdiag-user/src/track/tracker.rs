#[derive(Debug, Default)]
pub struct Limits;
#[derive(Debug, Default)]
pub struct Tracker;
