// What a program does with fleet/client/typescript/client.ts.
import { Fleet, Refused } from "./client.js";

const fleet = await Fleet.connect();
const small = { num_agents: 2, rounds: 0 };
const end = await fleet.ask({ task_description: "Name three risks of a big-bang release", ...small });
console.log("asked", end.status, "winner_id" in end, end.completed_at instanceof Date);

const id = await fleet.submit({ task_description: "And of a gradual one?", ...small });
let calls = 0;
for await (const said of fleet.follow(id)) {
  if ("outcome" in said) calls += 1;
  if ("results" in said) console.log("followed", said.status, calls > 0);
}
console.log("result", (await fleet.result(id, 5)).result?.status);

const refused = async (doing: Promise<unknown>): Promise<Refused> => {
  try {
    await doing;
  } catch (error) {
    if (error instanceof Refused) return error;
    throw error;
  }
  throw new Error("it was not refused");
};
const bad = await refused(fleet.ask({ task_description: "x", num_agents: 99 }));
console.log("refused", bad.code, (bad.body as { path: string }).path);
console.log("refused", (await refused(fleet.cancel(id))).code);
await fleet.close();
