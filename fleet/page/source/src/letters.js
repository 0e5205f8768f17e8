// Dead letters: read one by one, handed in again once, dropped. The same rules as fleet/client/dead_letters.py.
import { Refused } from "./nats.js";
import { Polled } from "./store.js";

const STREAM = "DEAD_LETTERS";
const EVERY_MS = 5_000;
const SHOWN = 200;
const NOTE = "deadletter.replayed.";
const NOTED_MEANWHILE = 10071;
const AGAIN_WITHIN_MS = 100_000; // the duplicate window of 120 s, less 20 s for clocks that differ

export class Letters extends Polled {
  all = [];
  count = null;
  problem = null;

  constructor(link) {
    super(link, EVERY_MS);
  }

  // The newest are kept: those that are known are not read again.
  async look() {
    try {
      const { state } = await this.link.api(`STREAM.INFO.${STREAM}`, { subjects_filter: `${NOTE}*` });
      const notes = state.subjects ?? {};
      const known = new Map(this.all.map((letter) => [letter.seq, letter]));
      const found = [];
      for (let seq = state.first_seq; state.messages && seq <= state.last_seq && !this.closed; ) {
        const stored = await this.link.stored(STREAM, { seq, next_by_subj: "deadletter.>" });
        if (!stored) break;
        if (!stored.subject.startsWith(NOTE)) found.push(known.get(stored.seq) ?? letterOf(stored));
        seq = stored.seq + 1;
        if (found.length > SHOWN) found.shift();
      }
      await Promise.all(found.filter((letter) => NOTE + letter.seq in notes).map((letter) => this.#note(letter)));
      Object.assign(this, { all: found.reverse(), count: state.messages - Object.values(notes).reduce((sum, number) => sum + number, 0), problem: null });
    } catch (error) {
      this.problem = error.message;
      this.forbidden = error.forbidden;
    }
    this.changed();
  }

  async #note(letter) {
    if (letter.replayed?.stream) return;
    const note = await this.link.stored(STREAM, { last_by_subj: NOTE + letter.seq });
    letter.replayed = note ? JSON.parse(note.data) : null;
  }

  // The note goes first: of two who do it at once one is refused. One that broke off is done again while NATS would know it.
  async replay(letter) {
    if (letter.replayed?.stream) throw new Refused("it was replayed before");
    const body = letter.reference ? await this.link.text(letter.reference) : letter.body;
    const at = letter.replayed?.at ?? new Date().toISOString();
    if (!letter.replayed) {
      try {
        await this.link.publish(NOTE + letter.seq, JSON.stringify({ at }), [["Nats-Expected-Last-Subject-Sequence", "0"]]);
      } catch (error) {
        if (error.code === NOTED_MEANWHILE) throw new Refused("somebody else replays it just now");
        throw error;
      }
    }
    if (Date.now() - Date.parse(at) > AGAIN_WITHIN_MS) throw new Refused(`a replay began at ${at} and broke off: nobody knows whether it was handed in`);
    const headers = letter.headers.filter(([name]) => !name.startsWith("Dead-Letter-") && name !== "Nats-Msg-Id");
    let ack;
    try {
      ack = await this.link.publish(letter.original, body, [...headers, ["Nats-Msg-Id", `replay.${letter.seq}`]]);
    } catch (error) {
      if (error.code || error.forbidden) await this.link.api(`STREAM.PURGE.${STREAM}`, { filter: NOTE + letter.seq }).catch(() => null); // refused, and not stored
      throw error;
    }
    letter.replayed = { stream: ack.stream, sequence: ack.seq, at };
    await this.link.publish(NOTE + letter.seq, JSON.stringify(letter.replayed));
    this.changed();
  }

  async drop(letter) {
    await this.link.api(`STREAM.MSG.DELETE.${STREAM}`, { seq: letter.seq });
    await this.link.api(`STREAM.PURGE.${STREAM}`, { filter: NOTE + letter.seq });
    await this.look();
  }
}

function letterOf({ seq, subject, at, headers, data }) {
  const header = (name) => headers.find(([each]) => each === name)?.[1] ?? "";
  return {
    seq,
    at,
    headers,
    original: subject.slice("deadletter.".length),
    reason: header("Dead-Letter-Reason"),
    from: `${header("Dead-Letter-Stream")} ${header("Dead-Letter-Sequence")}`,
    task: header("Task-Id"),
    body: data,
    reference: referenceIn(data),
    replayed: null,
  };
}

// A body that left no room for its headers lies in the object store. A client's own reference is the message itself.
function referenceIn(body) {
  try {
    const { content_ref: ref } = JSON.parse(body);
    return ref?.name?.startsWith("deadletters/") ? ref : null;
  } catch {
    return null;
  }
}
