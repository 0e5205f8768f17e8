// Names of tasks and subjects of tenants, as fleet/tenants/names.py has them: `team-a.risks-1` is the task risks-1 of team-a.
const DEFAULT = "default";

export const keyOf = (tenant, id) => (tenant === DEFAULT ? id : `${tenant}.${id}`);

export function nameOf(key) {
  const dot = key.indexOf(".");
  return dot < 0 ? { tenant: DEFAULT, id: key } : { tenant: key.slice(0, dot), id: key.slice(dot + 1) };
}

// A tenant's, `*`: every one's; as the fleet's account has it.
export const subjectOf = (tenant, subject) => (tenant === DEFAULT ? subject : `tenant.${tenant}.${subject}`);

export const tenantOf = (subject) => (subject.startsWith("tenant.") ? subject.split(".", 2)[1] : DEFAULT);
