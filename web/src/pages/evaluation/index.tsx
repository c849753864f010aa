import { Route, Switch } from 'wouter';

import { List } from './list';
import { One } from './one';
import { Start } from './start';

/** Evaluations, one of them, and a form that starts one. */
export default function Page() {
  return (
    <Switch>
      <Route path="/evaluation/new"><Start /></Route>
      <Route path="/evaluation/:id">{({ id }) => <One key={id} id={id} />}</Route>
      <Route><List /></Route>
    </Switch>
  );
}
