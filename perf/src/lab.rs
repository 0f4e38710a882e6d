#[derive(Debug, thiserror::Error)]
pub enum LabError { #[error("x")] X }
