//! Notices: what an operator should hear of without asking, sent to the channels that the settings name.
//!
//! A notice is derived from what stands in the read models, so it carries names, ids and times, and never a secret or a text of a request. The
//! forms of the channels are pure: a notice, a time and the channel's secrets give one request.

mod channel;
mod definition;
mod delivery;
mod form;
mod notice;
mod notifier;
mod signature;
mod standing;
mod template;
mod told;

pub use channel::{Channel, Secrets};
pub use definition::{ChannelDefinition, ChannelError};
pub use delivery::{Delivery, Outcome};
pub use form::{Form, Posting};
pub use notice::{Kind, Notice};
pub use notifier::{ChannelState, Notifier, NotifierParts};
pub use template::{Template, TemplateError};
