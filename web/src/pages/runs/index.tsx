import { Route, Switch } from 'wouter';

import { fetched } from '../../parts/fetched';
import { List } from './list';
import { Start } from './start';

// what draws curves is fetched by who looks at one
const One = fetched<{ id: string }>(async () => ({ default: (await import('./one')).One }));
const Compare = fetched<{ ids: string[] }>(async () => ({ default: (await import('./compare')).Compare }));

/** The queue and history of runs, one run, several runs' curves, and a form that starts one. */
export default function Page() {
  return (
    <Switch>
      <Route path="/runs/new"><Start /></Route>
      <Route path="/runs/compare/:ids">{({ ids }) => <Compare ids={ids.split(/,|%2C/i).filter(Boolean)} />}</Route>
      <Route path="/runs/:id">{({ id }) => <One key={id} id={id} />}</Route>
      <Route><List /></Route>
    </Switch>
  );
}
