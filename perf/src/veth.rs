use crate::Scale; use crate::lab::LabError; use crate::report::Report;
pub fn measure(_: &Scale, _: &mut Report) -> Result<(), LabError> { Ok(()) }
