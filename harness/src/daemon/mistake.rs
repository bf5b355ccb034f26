//! What a daemon may do wrong, one thing at a time: the reference daemon makes each on request, and the judge has to name
//! exactly the rule that it breaks.

use clap::ValueEnum;

use super::launch::Which;

macro_rules! mistakes {
    ($($(#[doc = $doc:literal])+ $name:ident: $rule:literal;)+) => {
        /// A mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub enum Mistake {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mistake {
            /// The rule that it breaks.
            pub fn breaks(self) -> &'static str {
                match self {
                    $(Mistake::$name => $rule,)+
                }
            }
        }
    };
}

mistakes! {
    /// Asks for a flag that the kernel does not offer.
    AsksForMore: "DMN-01";
    /// Asks for passthrough in a second word of flags that is not announced.
    NoInitExt: "DMN-02";
    /// Asks for passthrough with max_stack_depth 0.
    NoDepth: "DMN-03";
    /// Asks for passthrough with max_stack_depth 3.
    TooDeep: "DMN-03";
    /// Asks for passthrough and the writeback cache.
    WritesBack: "DMN-04";
    /// Registers files without having asked for passthrough.
    RegistersUnasked: "DMN-05";
    /// Registers the folder of the file.
    RegistersFolder: "DMN-06";
    /// Registers with a flag that there is not.
    RegistersWithFlags: "DMN-06";
    /// Registers a descriptor that it has closed.
    RegistersNothing: "DMN-06";
    /// Registers another file.
    WrongFile: "DMN-07";
    /// Takes the errno of a refusal for an id.
    ErrnoAsId: "DMN-08";
    /// After one refusal never tries again.
    GivesUp: "DMN-09";
    /// Opens with id 0.
    IdZero: "DMN-10";
    /// Opens with id -1.
    IdNegative: "DMN-10";
    /// Opens with an id that was never given out.
    IdNobodys: "DMN-11";
    /// Goes on using an id after it has closed it with the last file.
    IdStale: "DMN-11";
    /// Closes the id before it replies.
    ClosesEarly: "DMN-12";
    /// Says FOPEN_KEEP_CACHE, too.
    KeepsCache: "DMN-13";
    /// Says FOPEN_NONSEEKABLE, too.
    NonSeekable: "DMN-13";
    /// Says FOPEN_STREAM, too.
    Stream: "DMN-13";
    /// Says FOPEN_DIRECT_IO, too.
    DirectIo: "DMN-14";
    /// Answers every second open of a file without passthrough.
    MixesLater: "DMN-15";
    /// Answers the first open of a file without passthrough, the others with.
    MixesFirst: "DMN-15";
    /// Registers a file for each open.
    IdPerOpen: "DMN-16";
    /// Registers with the file system user of whoever opens the file.
    RegistersAsCaller: "DMN-17";
    /// Never closes an id, and registers again.
    NeverCloses: "DMN-20";
    /// Forgets to close ids of files that it has made.
    LeaksNew: "DMN-20";
    /// Closes every id twice.
    ClosesTwice: "DMN-21";
    /// Closes an id that it never had.
    ClosesNobodys: "DMN-21";
    /// Closes the id at the first release of a file, whoever else has it open.
    ClosesUnderOthers: "DMN-22";
    /// Answers OPEN with half a structure.
    ShortReply: "DMN-40";
    /// Answers GETATTR with eight bytes more.
    LongReply: "DMN-40";
    /// Sends a payload with an error.
    ErrorWithPayload: "DMN-40";
    /// Sends each answer to GETATTR to somebody else first.
    WrongUnique: "DMN-41";
    /// Answers FLUSH twice.
    AnswersTwice: "DMN-42";
    /// Says an error above zero first.
    ErrorPositive: "DMN-43";
    /// Says an error that is none first.
    ErrorTooLarge: "DMN-43";
    /// Answers FORGET.
    AnswersForget: "DMN-44";
    /// Never answers FLUSH.
    Silent: "DMN-45";
    /// Stays when its mount is gone.
    Stays: "DMN-50";
    /// Does not heed SIGTERM.
    Deaf: "DMN-51";
    /// Aborts at the third open.
    Crashes: "DMN-52";
    /// Has a child that holds the device and serves nothing.
    KeepsDevice: "DMN-53";
    /// Reads one byte behind what was asked for.
    ReadsBehind: "DMN-60";
    /// Says that it has written, and has not.
    WritesNothing: "DMN-60";
    /// Tells the size that a file had when it was opened.
    SizeStale: "DMN-61";
    /// Tells a size that is one less after a write.
    SizeShrinks: "DMN-61";
    /// Refuses FSYNC.
    NoSync: "DMN-62";
    /// Says that it has truncated, and has not.
    NoTruncate: "DMN-62";
    /// Loses open files when their name goes.
    LosesRemoved: "DMN-63";
    /// Lets everybody open everything.
    AsksNobody: "DMN-64";
    /// Says that it has changed a mode, and has not.
    KeepsMode: "DMN-65";
    /// Says that it has written what there is no room for.
    HidesFull: "DMN-66";
    /// Opens for reading what cannot be opened for writing, and says that all is well.
    OpensReadOnly: "DMN-67";
    /// Serves four opens at once only.
    FewFiles: "DMN-68";
}

impl Mistake {
    /// Which registrations have to be refused for it to be made, if any: some are about refusals, and with data it can be
    /// made only where data goes to the daemon.
    pub fn needs_refused(self) -> Option<Which> {
        match self {
            Mistake::ErrnoAsId | Mistake::GivesUp => Some(Which::Nth(1)),
            Mistake::ReadsBehind | Mistake::WritesNothing | Mistake::HidesFull => Some(Which::Every),
            _ => None,
        }
    }
}
