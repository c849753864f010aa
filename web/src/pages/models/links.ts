/** Where a model is looked at from all sides. */
export const toModel = (name: string): string => `/models?name=${encodeURIComponent(name)}`;

/** Where one talks to it, beside its base where it has one. */
export const toTry = (name: string, base?: string): string =>
  `/playground?${[base, name].filter((each) => each !== undefined).map((each) => `model=${encodeURIComponent(each)}`).join('&')}`;

/** Where it is measured. */
export const toEvaluate = (name: string): string => `/evaluation/new?model=${encodeURIComponent(name)}`;
