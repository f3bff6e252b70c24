//! The closed sets of names that messages and metrics use.

/// Declares an enum whose variants have a name on the wire and an index for counting.
macro_rules! names {
    ($(#[$meta:meta])* $type:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $(#[doc = $name] $variant,)* }

        impl $type {
            /// Every one of them, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name on the wire and as a label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Index into tables of [`Self::COUNT`] entries.
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

names! {
    /// A message type that this service knows, or `other`.
    Kind {
        SystemConnected = "system:connected",
        SystemPing = "system:ping",
        SystemPong = "system:pong",
        SystemError = "system:error",
        SystemTokenExpiring = "system:token_expiring",
        SystemAck = "system:ack",
        SystemReconnect = "system:reconnect",
        SystemResync = "system:resync",
        AuthRefresh = "auth:refresh",
        AuthRefreshed = "auth:refreshed",
        RoomJoin = "room:join",
        RoomJoined = "room:joined",
        RoomLeave = "room:leave",
        RoomLeft = "room:left",
        UserSubscribe = "user:subscribe",
        BookingQueuePosition = "booking:queue_position",
        BookingProcessing = "booking:processing",
        BookingConfirmed = "booking:confirmed",
        BookingFailed = "booking:failed",
        BookingCancelled = "booking:cancelled",
        PaymentProcessing = "payment:processing",
        PaymentSuccess = "payment:success",
        PaymentFailed = "payment:failed",
        PaymentRefunded = "payment:refunded",
        TicketAvailability = "ticket:availability",
        TicketReserved = "ticket:reserved",
        TicketReleased = "ticket:released",
        Other = "other",
    }
}

names! {
    /// The `code` of a `system:error`.
    ErrorCode {
        ParseError = "PARSE_ERROR",
        InvalidPayload = "INVALID_PAYLOAD",
        MissingRoom = "MISSING_ROOM",
        UnknownType = "UNKNOWN_TYPE",
        Forbidden = "FORBIDDEN",
        TooManyRooms = "TOO_MANY_ROOMS",
        RateLimited = "RATE_LIMITED",
        Unauthorized = "UNAUTHORIZED",
        Unavailable = "UNAVAILABLE",
        Internal = "INTERNAL",
    }
}

impl Kind {
    /// The known type of this name; `Other` for one that a client or publisher chose freely.
    pub fn of(name: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or(Self::Other)
    }
}

/// Whether a type is reserved for the service itself, and refused from publishers.
pub fn is_reserved(kind: &str) -> bool {
    ["system:", "auth:", "room:"].iter().any(|prefix| kind.starts_with(prefix))
}
