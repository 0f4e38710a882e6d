//! What is shown of the speaker.
